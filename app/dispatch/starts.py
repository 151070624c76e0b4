"""A start: the request to an outer scheduler to run one worker for one job, by a name that follows
from the job.
"""

import re
from dataclasses import dataclass
from typing import Protocol

from app.base.processes.device import CPU
from app.models.falqon_options import ANY_DEVICE

_NAME = re.compile(r"falqon-(ftjob-[0-9a-f]{32})(?:-\d+)?")
_UNFIT = re.compile(r"[^a-z0-9]+")
PROJECT = "{project}"
MAX_LABEL = 63  # characters, in Kubernetes


class SchedulerUnavailable(Exception):
    """The scheduler does not answer, or not to this user; a later call may succeed."""


class StartRefused(Exception):
    """The scheduler answers and does not accept this start."""


@dataclass(frozen=True, slots=True)
class WaitingJob:
    id: str
    project_id: str
    project_name: str
    num_gpus: int
    gpu: str
    attempt: int  # The number of the latest one.

    @property
    def name(self) -> str:
        """Name of its next start. Ended starts keep theirs for a while in Kubernetes."""
        return f"falqon-{self.id}" if self.attempt == 0 else f"falqon-{self.id}-{self.attempt + 1}"

    @property
    def device(self) -> str | None:
        """The only kind of device that it may have."""
        return None if self.gpu == ANY_DEVICE else self.gpu

    @property
    def has_gpus(self) -> bool:
        return self.gpu != CPU

    def fill(self, pattern: str) -> str:
        """Put the project's name into an account or a queue, in letters that schedulers accept."""
        name = _UNFIT.sub("-", self.project_name.lower()).strip("-")[:MAX_LABEL].strip("-")
        return pattern.replace(PROJECT, name or self.project_id.replace("_", "-").lower())


@dataclass(frozen=True, slots=True)
class Start:
    """`reference`: how the scheduler calls it. `has_begun`: its worker runs or may run."""

    name: str
    job_id: str
    reference: str
    has_begun: bool = False
    has_ended: bool = False


def job_of(name: str) -> str | None:
    """Return the id of the job that a start of this name is for."""
    match = _NAME.fullmatch(name)
    return match and match[1]


class Scheduler(Protocol):
    """Each function raises `SchedulerUnavailable`."""

    def list(self) -> list[Start]:
        """Return the starts that it knows, oldest first."""

    def submit(self, job: WaitingJob) -> None:
        """Ask for a start, unless one has the name already. Raises `StartRefused`."""

    def withdraw(self, start: Start) -> None:
        """Remove a start that has ended, or that has still not begun."""
