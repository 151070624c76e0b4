"""When a job's turn comes: the jobs before it, how long each still takes, and how many workers share them."""

import heapq
import time
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.database import now_plus
from app.models import Desired, Job, JobStatus
from app.models.base import JsonObject
from app.settings import Settings
from app.workers import service as workers

FORESEEN = 1000  # jobs; nobody plans by what comes after so many


class QueueObject(BaseModel):
    position: Annotated[int, Field(description="1: the next job to be taken")]
    num_workers: Annotated[int, Field(description="that were seen lately, busy ones included")]
    estimated_start: Annotated[int | None, Field(description="Unix seconds; null when it cannot be told, and `reason` says why")]
    reason: Literal["no_live_worker", "unknown_duration", "long_queue"] | None


class Waiting(NamedTuple):
    job_id: str
    seconds: float | None  # expected; null when nothing is known of it


class Queue:
    """As it is at one moment. Oldest first, the order in which `claims.claim` takes jobs."""

    def __init__(self, waiting: list[Waiting], num_waiting: int, running: list[float | None], num_idle: int) -> None:
        self._waiting, self._num_waiting = waiting, num_waiting
        self._running, self._num_idle = running, num_idle

    def place(self, job_id: str) -> QueueObject | None:
        """Of a queued job; None when it is not foreseen here."""
        for ahead, one in enumerate(self._waiting):
            if one.job_id == job_id:
                return self._place(ahead)
        return None

    def end(self) -> QueueObject:
        """Of a job that would be queued now."""
        return self._place(self._num_waiting)

    def _place(self, ahead: int) -> QueueObject:
        num_workers = self._num_idle + len(self._running)
        start, reason = None, None
        if num_workers == 0:
            reason = "no_live_worker"
        elif ahead > len(self._waiting):
            reason = "long_queue"
        elif (seconds := self._seconds_until(ahead)) is None:
            reason = "unknown_duration"
        else:
            start = int(time.time() + seconds)
        return QueueObject.model_validate({"position": ahead + 1, "num_workers": num_workers, "estimated_start": start, "reason": reason})

    def _seconds_until(self, ahead: int) -> float | None:
        """Whoever is free first takes the next job; a job of unknown length may hold its worker for ever."""
        unknown = float("inf")
        free = [0.0] * self._num_idle + [unknown if seconds is None else seconds for seconds in self._running]
        heapq.heapify(free)
        for one in self._waiting[:ahead]:
            heapq.heapreplace(free, free[0] + (unknown if one.seconds is None else one.seconds))
        return None if free[0] == unknown else free[0]


def look(session: Session, settings: Settings) -> Queue:
    runnable = (Job.status == JobStatus.QUEUED, Job.desired == Desired.RUN)
    waiting = session.execute(select(Job.id, Job.progress, Job.estimate).where(*runnable).order_by(Job.id).limit(FORESEEN)).all()
    count = session.scalar(select(func.count()).select_from(Job).where(*runnable)) or 0
    held = (Job.status == JobStatus.RUNNING, Job.lease_expires_at > now_plus())
    running = session.execute(select(Job.lease_owner, Job.progress, Job.estimate).where(*held)).all()
    return Queue(
        [Waiting(job_id, _remaining(progress, estimate)) for job_id, progress, estimate in waiting],
        count,
        [_remaining(progress, estimate) for _, progress, estimate in running],
        len(workers.lately_seen(session, settings) - {owner for owner, _, _ in running}),
    )


def _remaining(progress: JsonObject | None, estimate: JsonObject | None) -> float | None:
    """As last reported, else as estimated."""
    eta = (progress or {}).get("eta_seconds")
    if eta is not None:
        return float(eta)
    return None if estimate is None else float(estimate["seconds"]["expected"])
