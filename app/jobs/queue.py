"""Where in the queue a job stands, in the order in which workers claim, and when its turn may come."""

import time
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.models import Desired, Job, JobStatus

MAX_SHOWN = 1000  # places further back are not counted


class Place(NamedTuple):
    position: int  # 1 is next
    estimated_start: int | None  # unix seconds; null where a job ahead has no estimate


def places(session: Session, jobs: Sequence[Job]) -> dict[str, Place]:
    """Of those of `jobs` that wait within the first `MAX_SHOWN`. As many devices are taken to work as there are running jobs."""
    if not any(waits(job) for job in jobs):
        return {}
    lanes, busy_seconds = _running(session)
    found, ahead = {}, busy_seconds
    wanted = {job.id for job in jobs}
    for position, (job_id, seconds) in enumerate(_queue(session), 1):
        if job_id in wanted:
            found[job_id] = Place(position, None if ahead is None else int(time.time() + ahead / lanes))
        ahead = None if ahead is None or seconds is None else ahead + seconds
    return found


def waits(job: Job) -> bool:
    return job.status == JobStatus.QUEUED and job.desired == Desired.RUN


def _queue(session: Session) -> Sequence[tuple[str, float | None]]:
    seconds = Job.estimate["seconds"]["expected"].as_float()
    waiting = select(Job.id, seconds).where(Job.status == JobStatus.QUEUED, Job.desired == Desired.RUN)
    return [(id_, expected) for id_, expected in session.execute(waiting.order_by(Job.id).limit(MAX_SHOWN))]


def _running(session: Session) -> tuple[int, float | None]:
    """How many run, and the seconds they still need together."""
    left = func.coalesce(Job.progress["eta_seconds"].as_float(), Job.estimate["seconds"]["expected"].as_float())
    etas = session.scalars(select(left).where(Job.status == JobStatus.RUNNING)).all()
    return max(1, len(etas)), None if None in etas else sum(eta for eta in etas if eta is not None)
