"""When a job's turn comes: the jobs before it, how long each still takes, and how many workers share them."""

import heapq
import math
import time
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.database import now_plus
from app.models import Desired, Job, JobStatus
from app.settings import Settings
from app.workers import service as workers

FORESEEN = 200  # jobs; nobody plans by what comes after so many, and looking must stay cheap

_seconds_left = func.coalesce(Job.progress["eta_seconds"].as_float(), Job.estimate["seconds"]["expected"].as_float())
_WAITING = select(Job.id, _seconds_left).where(Job.status == JobStatus.QUEUED, Job.desired == Desired.RUN).order_by(Job.id).limit(FORESEEN)
_RUNNING = select(Job.lease_owner, _seconds_left).where(Job.status == JobStatus.RUNNING, Job.lease_expires_at > now_plus())


class QueueObject(BaseModel):
    position: Annotated[int | None, Field(description=f"1: the next job to be taken; null beyond {FORESEEN}")]
    num_workers: Annotated[int, Field(description="that were seen lately, busy ones included")]
    estimated_start: Annotated[int | None, Field(description="Unix seconds; null when it cannot be told, and `reason` says why")]
    reason: Literal["no_live_worker", "unknown_duration", "long_queue"] | None


class Waiting(NamedTuple):
    job_id: str
    seconds: float | None  # expected; null when nothing is known of it


class Queue:
    """As it is at one moment. `waiting`: oldest first, the order in which `claims.claim` takes jobs, and `FORESEEN` at most.

    `running`: the seconds that each busy worker still needs, null where they are not known.
    """

    def __init__(self, waiting: Sequence[Waiting], running: Sequence[float | None], num_idle: int) -> None:
        self._waiting, self._running, self._num_idle = waiting, running, num_idle

    def place(self, job_id: str) -> QueueObject | None:
        """Of a queued job; None when it does not wait any more."""
        ahead = next((number for number, one in enumerate(self._waiting) if one.job_id == job_id), None)
        return self._beyond() if ahead is None else self._place(ahead)

    def end(self) -> QueueObject:
        """Of a job that would be queued now."""
        return self._beyond() or self._place(len(self._waiting))

    @property
    def _num_workers(self) -> int:
        return self._num_idle + len(self._running)

    def _beyond(self) -> QueueObject | None:
        if len(self._waiting) < FORESEEN:
            return None
        return QueueObject(position=None, num_workers=self._num_workers, estimated_start=None, reason="long_queue")

    def _place(self, ahead: int) -> QueueObject:
        if self._num_workers == 0:
            return QueueObject(position=ahead + 1, num_workers=0, estimated_start=None, reason="no_live_worker")
        seconds = self._seconds_until(ahead)
        return QueueObject(
            position=ahead + 1,
            num_workers=self._num_workers,
            estimated_start=None if seconds is None else int(time.time() + seconds),
            reason="unknown_duration" if seconds is None else None,
        )

    def _seconds_until(self, ahead: int) -> float | None:
        """Whoever is free first takes the next job; one of unknown length may hold its worker for ever."""
        free = [0.0] * self._num_idle + [math.inf if seconds is None else seconds for seconds in self._running]
        heapq.heapify(free)
        for one in self._waiting[:ahead]:
            heapq.heapreplace(free, free[0] + (math.inf if one.seconds is None else one.seconds))
        return None if free[0] == math.inf else free[0]


def waits(job: Job) -> bool:
    return job.status == JobStatus.QUEUED and job.desired == Desired.RUN


def look(session: Session, settings: Settings) -> Queue:
    waiting = session.execute(_WAITING)
    running = session.execute(_RUNNING).all()
    idle = workers.lately_seen(session, settings) - {owner for owner, _ in running}
    return Queue([Waiting(*row) for row in waiting], [seconds for _, seconds in running], len(idle))
