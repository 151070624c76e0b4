"""Hand each waiting job to an outer scheduler, once. Nothing is stored: every look compares the
scheduler's starts with the database, so a dispatcher may be killed at any point.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.base.database import Database
from app.dispatch.queue import State, list_waiting, states_of
from app.dispatch.starts import Scheduler, SchedulerUnavailable, Start, StartRefused, WaitingJob
from falqon_core.fault_points import fault

# More would fill the queue that the scheduler shares with its other users (Slurm: MaxJobCount).
MAX_PENDING = 1000
AGAIN_SECONDS = 30.0  # Until a start that ended without its job is repeated; then twice as long.
MAX_AGAIN_SECONDS = 600.0
MAX_RETRY_SECONDS = 60.0
MAX_REASON = 500  # characters
log = structlog.get_logger()


class Plan(NamedTuple):
    withdrawn: list[Start]
    submitted: list[WaitingJob]


def plan(
    starts: Sequence[Start], states: Mapping[str, State], waiting: Iterable[WaitingJob]
) -> Plan:
    """Compare the starts with the jobs, of which `waiting` may be submitted now. A start that has
    begun is left alone, as its worker learns from the database what its job should do; so is one
    whose job another installation has.
    """
    wanted = {job.id: job for job in waiting}
    names = {job.name for job in wanted.values()}
    handed_over: set[str] = set()
    withdrawn: list[Start] = []
    for start in sorted(starts, key=lambda start: not start.has_begun):
        state = states.get(start.job_id)
        if start.has_ended:
            if start.name in names:
                withdrawn.append(start)
        elif state is State.WAITING and start.job_id not in handed_over:
            handed_over.add(start.job_id)
        elif state is not None and not start.has_begun:
            withdrawn.append(start)
    missing = [job for job in wanted.values() if job.id not in handed_over]
    return Plan(withdrawn, missing[: max(0, MAX_PENDING - len(handed_over))])


class Dispatcher:
    def __init__(
        self,
        database: Database,
        scheduler: Scheduler,
        poll_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._scheduler = scheduler
        self._poll_seconds = poll_seconds
        self._clock = clock
        # By name of the start: how often it was submitted, and the earliest time of the next.
        self._submitted: dict[str, tuple[int, float]] = {}
        self._reasons: set[str] = set()

    def run(self, ended: threading.Event) -> None:
        """Look again and again until `ended` is set."""
        delay = self._poll_seconds
        is_away = False
        while not ended.is_set():
            try:
                self.tick(ended)
                if is_away:
                    log.info("scheduler and database answer again")
                is_away, delay = False, self._poll_seconds
            except (SchedulerUnavailable, SQLAlchemyError) as error:
                if not is_away:
                    log.warning("nothing can be dispatched, retrying", error=str(error))
                is_away, delay = True, min(2 * delay, max(MAX_RETRY_SECONDS, self._poll_seconds))
            ended.wait(delay)

    def tick(self, ended: threading.Event | None = None) -> None:
        """Submit what is missing and withdraw what is no longer wanted. Raises
        `SchedulerUnavailable` and `SQLAlchemyError`.
        """
        # Before the database: a start that is missing from an older list only seems to be missing.
        starts = self._scheduler.list()
        with self._database.read() as session:
            states = states_of(session, sorted({start.job_id for start in starts}))
            waiting = list_waiting(session, 2 * MAX_PENDING)
        self._forget_all_but({job.name for job in waiting})
        due = [job for job in waiting if self._is_due(job)]
        withdrawn, missing = plan(starts, states, due)
        for start in withdrawn:
            self._scheduler.withdraw(start)
            if not start.has_ended:
                log.info("start withdrawn", job_id=start.job_id, start=start.name)
        for job in missing:
            if ended is not None and ended.is_set():
                return
            self._submit(job)

    def _submit(self, job: WaitingJob) -> None:
        times, _ = self._submitted.get(job.name, (0, 0.0))
        delay = min(AGAIN_SECONDS * 2 ** min(times, 10), MAX_AGAIN_SECONDS)
        self._submitted[job.name] = (times + 1, self._clock() + delay)
        fault("before_dispatch")
        try:
            self._scheduler.submit(job)
        except StartRefused as error:
            reason = str(error).replace(job.name, "the start").replace(job.id, "the job")
            reason = reason[:MAX_REASON]
            if reason not in self._reasons:
                self._reasons.add(reason)
                log.warning("the scheduler refuses a start", job_id=job.id, reason=reason)
            return
        fault("after_dispatch")
        log.info("start submitted", job_id=job.id, start=job.name, num_gpus=job.num_gpus)

    def _is_due(self, job: WaitingJob) -> bool:
        return self._clock() >= self._submitted.get(job.name, (0, 0.0))[1]

    def _forget_all_but(self, names: set[str]) -> None:
        self._submitted = {name: tried for name, tried in self._submitted.items() if name in names}
        if not self._submitted:
            self._reasons.clear()
