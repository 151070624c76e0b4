"""The lines on the standard input of a tracker's process: a `Run`, then `Metrics`, at the end an
`Outcome`."""

from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict

Scalars = dict[str, int | float]
OutcomeName = Literal["succeeded", "failed", "stopped"]


class TrackerLine(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Run(TrackerLine):
    job_id: str
    type: str
    options: dict[str, str | list[str] | None]
    params: dict[str, str | int | float | bool | None]

    @property
    def name(self) -> str:
        return str(self.options.get("name") or self.job_id)


class Metrics(TrackerLine):
    step: int
    values: Scalars


class Outcome(TrackerLine):
    outcome: OutcomeName


class Tracker(Protocol):
    """A job that goes on in a later attempt continues the same run, found by the job's id."""

    def __init__(self, run: Run) -> None: ...

    def log(self, step: int, values: Scalars) -> None: ...

    def finish(self, outcome: OutcomeName) -> None: ...
