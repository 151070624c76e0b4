"""Reasons to end an attempt early: a stop request, the end or the drain of its worker, a budget
that is used up, a full disk."""

import threading

from app.models import Desired, Job
from app.models.falqon_options import Budget
from worker.attempt.lease import Lease
from worker.attempt.progress import AttemptProgress


class StopRequested(Exception):
    """The attempt should end, and no trainer runs."""


class StopPolicy:
    def __init__(
        self, shutting_down: threading.Event, job: Job, lease: Lease, progress: AttemptProgress
    ) -> None:
        self._shutting_down = shutting_down
        self._lease = lease
        self._progress = progress
        self._budget = job.budget or Budget()
        self.is_disk_full = False

    def report_full_disk(self) -> None:
        self.is_disk_full = True

    def should_stop(self) -> bool:
        return (
            self._lease.desired is not Desired.RUN
            or self._shutting_down.is_set()
            or self._lease.must_stop
            or self.reached_cap() is not None
            or self.is_disk_full
        )

    def reached_cap(self) -> str | None:
        """Return the cap of the budget that is used up. A job of which no step is left is let
        finish: stopping it would cost the same work once more.
        """
        if self._progress.no_step_follows:
            return None
        return self._budget.find_reached_cap(
            self._progress.execution_seconds, self._progress.accrued
        )

    def check(self) -> None:
        """Raise `LeaseLost` or `StopRequested` if the attempt should not go on."""
        self._lease.check()
        if self.should_stop():
            raise StopRequested
