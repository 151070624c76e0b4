"""Metrics of the whole installation. Each query reads a bounded part of an index: rows of jobs and
operations that have ended are never among them.
"""

from typing import NamedTuple

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from app.base.database import now, now_plus
from app.models import Attempt, Desired, Engine, EngineState, Event, Job, JobStatus
from app.models.operation import Operation
from app.operations import claims as operations

MAX_COUNTED = 10_000  # maximum per status or kind; the rest is not counted
# Number of the oldest waiting jobs whose wait is read; a requeued job waits since then.
MAX_AGED = 100
UNCLAIMED = (JobStatus.VALIDATING_FILES, JobStatus.PAUSED)


class JobCount(NamedTuple):
    status: str
    device: str  # the requested one, or any, before an attempt has one
    num_devices: int
    num_jobs: int


class EngineCount(NamedTuple):
    state: str
    num_engines: int
    num_requests: int
    tokens_per_second: float


def count_unclaimed(session: Session) -> list[JobCount]:
    """Count the jobs that neither wait for a worker nor have one, and have not ended."""
    counts = []
    for status in UNCLAIMED:
        counts += _count_by_need(session, status)
    return counts


def count_queued(session: Session) -> list[JobCount]:
    """Count the jobs that wait for a worker."""
    return _count_by_need(session, JobStatus.QUEUED, Job.desired == Desired.RUN)


def count_running(session: Session) -> list[JobCount]:
    """Count the jobs with a worker, by device."""
    # No join: Postgres may then read all attempts to find the latest of those jobs.
    device = (
        select(Attempt.device)
        .where(Attempt.job_id == Job.id, Attempt.number == Job.attempt)
        .scalar_subquery()
    )
    running = select(device.label("device"), Job.num_gpus).where(Job.status == JobStatus.RUNNING)
    each = running.subquery().c
    rows = session.execute(
        select(each.device, each.num_gpus, func.count()).group_by(each.device, each.num_gpus)
    )
    return [JobCount(JobStatus.RUNNING, *row) for row in rows]


def longest_wait_seconds(session: Session) -> float:
    """Return the longest time that a job has waited for a worker."""
    oldest = (
        select(Job.id, Job.last_event_seq)
        .where(Job.status == JobStatus.QUEUED, Job.desired == Desired.RUN)
        .order_by(Job.id)
        .limit(MAX_AGED)
        .subquery()
    )
    # No join: Postgres may then read all events to find those of a few jobs.
    written = (
        select(Event.created_at)
        .where(Event.job_id == oldest.c.id, Event.seq == oldest.c.last_event_seq)
        .scalar_subquery()
    )
    since = session.scalar(select(func.min(written)).select_from(oldest))
    return 0.0 if since is None else max(0.0, (now(session) - since).total_seconds())


def oldest_lease_age_seconds(session: Session, lease_seconds: float) -> float:
    """Return the age of the oldest lease renewal among the running jobs."""
    earliest = session.scalar(
        select(func.min(Job.lease_expires_at)).where(Job.status == JobStatus.RUNNING)
    )
    if earliest is None:
        return 0.0
    return max(0.0, lease_seconds - (earliest - now(session)).total_seconds())


def count_operations(session: Session) -> dict[str, int]:
    """Count the operations that wait for a worker, by kind."""
    return {
        kind.__tablename__: session.scalar(
            select(func.count()).select_from(
                select(kind.id).where(*operations.is_waiting(kind)).limit(MAX_COUNTED).subquery()
            )
        )
        or 0
        for kind in Operation.__subclasses__()
    }


def count_engines(session: Session) -> list[EngineCount]:
    """Count the loaded and loading models, with their current load."""
    # The lease of a waiting engine is that of its last worker.
    is_held = Engine.lease_expires_at.is_(None) | (Engine.lease_expires_at > now_plus())
    is_live = is_held | (Engine.state == EngineState.WAITING)
    statement = (
        select(
            Engine.state,
            func.count(),
            func.sum(Engine.num_requests),
            func.sum(Engine.tokens_per_second),
        )
        .where(is_live)
        .group_by(Engine.state)
    )
    return [
        EngineCount(state, num_engines, num_requests or 0, tokens or 0.0)
        for state, num_engines, num_requests, tokens in session.execute(statement)
    ]


def _count_by_need(
    session: Session, status: JobStatus, *more: ColumnElement[bool]
) -> list[JobCount]:
    """Count jobs without a worker, by the device that they wait for and the number of GPUs."""
    is_counted = (Job.status == status, *more)
    few = select(Job.gpu, Job.num_gpus).where(*is_counted).limit(MAX_COUNTED).subquery().c
    needs = (few.gpu, few.num_gpus)
    rows = session.execute(select(*needs, func.count()).group_by(*needs))
    return [JobCount(status, *row) for row in rows]
