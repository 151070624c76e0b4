"""Findings of `doctor` about a machine: a row for each check."""

from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict

CheckStatus = Literal["ok", "failed", "skipped"]
Check = Callable[[], str]  # Returns the finding; an error says why there is none.


class Skipped(Exception):
    """A check was not tried; the text says why."""


class CheckRow(BaseModel):
    """`detail`: what was found, why it failed, or why it was not tried."""

    model_config = ConfigDict(frozen=True)

    name: str
    status: CheckStatus
    detail: str
    seconds: float


class Diagnosis(BaseModel):
    """`seconds`: of all checks, with what they load."""

    model_config = ConfigDict(frozen=True)

    rows: tuple[CheckRow, ...]
    seconds: float

    def count(self, status: CheckStatus) -> int:
        return sum(row.status == status for row in self.rows)

    @property
    def summary(self) -> str:
        """Return the counts in words, those of failures first."""
        counts = ((status, self.count(status)) for status in ("failed", "ok", "skipped"))
        return ", ".join(f"{number} {status}" for status, number in counts if number)
