"""What a job should be after everything that can happen to it: no database, no clock, one plain
object for each.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from app.models import Desired, JobStatus

MAX_INFRA_FAILURES = 2
ENDED = {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}
WAITING = {JobStatus.VALIDATING_FILES, JobStatus.QUEUED}


class Check(StrEnum):
    """Of the job's file."""

    TO_COME = "to come"
    PASSED = "passed"
    FAILED = "failed"


@dataclass
class ModelJob:
    id: str
    file_id: str
    priority: int
    check: Check
    gpu: str = "any"
    status: JobStatus = JobStatus.VALIDATING_FILES
    desired: Desired = Desired.RUN
    attempt: int = 0
    owner: str | None = None
    seq: int = 2  # of the newest event; these two say that it was created and is being checked
    infra_failures: int = 0
    expired: bool = False
    relayed: int = 0
    has_recipe: bool = False
    cancel_acknowledged: bool = False
    outcomes: list[str | None] = field(default_factory=list)  # of its attempts

    def __post_init__(self) -> None:
        self.settle()

    def settle(self) -> None:
        if self.status is JobStatus.VALIDATING_FILES and self.check is not Check.TO_COME:
            self.has_recipe = self.check is Check.PASSED
            self._tell(JobStatus.QUEUED if self.has_recipe else JobStatus.FAILED)

    def claim(self, owner: str) -> None:
        self.attempt = self.attempt + 1
        self.owner = owner
        self.expired = False
        self.relayed = 0
        self.outcomes.append(None)
        self._tell(JobStatus.RUNNING)

    def relay(self, before: int, num_drafts: int) -> None:
        self.seq += before + num_drafts - self.relayed
        self.relayed = before + num_drafts

    def finish(self, status: JobStatus) -> bool:
        if status is JobStatus.SUCCEEDED and self.desired is Desired.CANCEL:
            return False
        self._end_attempt(status, status)
        return True

    def hand_back(self, *, counts: bool) -> None:
        self.infra_failures += counts
        if self.desired is Desired.CANCEL:
            status = JobStatus.CANCELLED
        elif self.infra_failures > MAX_INFRA_FAILURES:
            status = JobStatus.FAILED
        else:
            status = JobStatus.PAUSED if self.desired is Desired.PAUSE else JobStatus.QUEUED
        self._end_attempt(
            status, "lost" if counts else "released" if status is JobStatus.QUEUED else status
        )

    def pause(self) -> bool:
        """Whether it may be; so below."""
        if self.status not in WAITING | {JobStatus.RUNNING} or self.desired is Desired.CANCEL:
            return False
        self.desired = Desired.PAUSE
        self._tell(self.status if self.status is JobStatus.RUNNING else JobStatus.PAUSED)
        return True

    def resume(self) -> bool:
        if self.status is JobStatus.RUNNING and self.desired is Desired.PAUSE:
            self.desired = Desired.RUN
            self._tell(self.status)
            return True
        if self.status is not JobStatus.PAUSED:
            return False
        self.desired = Desired.RUN
        self._tell(JobStatus.QUEUED if self.has_recipe else JobStatus.VALIDATING_FILES)
        self.settle()
        return True

    def cancel(self) -> bool:
        if self.status in ENDED - {JobStatus.CANCELLED}:
            return False
        self.cancel_acknowledged = True
        if self.status is not JobStatus.CANCELLED and not (
            self.owner and self.desired is Desired.CANCEL
        ):
            self.desired = Desired.CANCEL
            self._tell(self.status if self.owner else JobStatus.CANCELLED)
        return True

    @property
    def claimable(self) -> bool:
        return self.status is JobStatus.QUEUED and self.desired is Desired.RUN

    def runs_on(self, device: str) -> bool:
        return self.gpu in ("any", device)

    def _tell(self, status: JobStatus) -> None:
        self.status = status
        self.seq += 1

    def _end_attempt(self, status: JobStatus, outcome: str) -> None:
        self.owner = None
        self.expired = False
        self.outcomes[-1] = outcome
        self._tell(status)
