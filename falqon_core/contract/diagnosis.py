"""Findings of `doctor` about a machine: a row for each check."""

import statistics
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

CheckStatus = Literal["ok", "failed", "skipped"]
MAX_TFLOPS = 1e6  # limit for one device


class Measurement(NamedTuple):
    """Detail of a row, and the rate at which trainings multiply there."""

    detail: str
    tflops: float


Check = Callable[[], str | Measurement]  # Returns the finding; an error says why there is none.


class Skipped(Exception):
    """A check was not tried; the text says why."""


class CheckRow(BaseModel):
    """`detail`: what was found, why it failed, or why it was not tried. `tflops`: rate of the
    products that the row measured, which are those of trainings.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    status: CheckStatus
    detail: str
    seconds: float
    tflops: Annotated[float, Field(gt=0, le=MAX_TFLOPS)] | None = None


class Diagnosis(BaseModel):
    """`seconds`: of all checks, with what they load."""

    model_config = ConfigDict(frozen=True)

    rows: tuple[CheckRow, ...]
    seconds: float

    @property
    def product_tflops(self) -> float | None:
        """Return the median rate of the products that were measured; None if none was."""
        rates = [row.tflops for row in self.rows if row.tflops is not None]
        return statistics.median(rates) if rates else None

    def count(self, status: CheckStatus) -> int:
        return sum(row.status == status for row in self.rows)

    @property
    def summary(self) -> str:
        """Return the counts in words, those of failures first."""
        counts = ((status, self.count(status)) for status in ("failed", "ok", "skipped"))
        return ", ".join(f"{number} {status}" for status, number in counts if number)
