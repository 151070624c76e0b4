"""The queue as an outer scheduler gets it."""

from collections.abc import Sequence
from enum import StrEnum

from sqlalchemy import false, func, select
from sqlalchemy.orm import Session

from app.dispatch.starts import WaitingJob
from app.jobs.next_job import is_due, room, running_gpus
from app.models import Job, JobStatus, Project

IDS_AT_ONCE = 500


class State(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    OTHER = "other"  # Paused, ended, or about to be.


def list_waiting(session: Session, limit: int) -> list[WaitingJob]:
    """Return the jobs that may begin, by the share that their project would have with each, those
    within its guarantee first. Those above the ceiling of their project are left out: they would
    wait on a card.
    """
    position = func.sum(Job.num_gpus).over(
        partition_by=Job.project_id, order_by=(Job.priority.desc(), Job.id)
    )
    columns = (Job.id, Job.project_id, Job.num_gpus, Job.gpu, Job.attempt)
    waiting = select(*columns, position.label("gpus_so_far")).where(is_due(Job)).subquery()
    num_gpus = running_gpus() + waiting.c.gpus_so_far
    is_owed = func.coalesce(num_gpus <= Project.guaranteed_gpus, false())
    rows = session.execute(
        select(
            waiting.c.id,
            waiting.c.project_id,
            Project.name,
            waiting.c.num_gpus,
            waiting.c.gpu,
            waiting.c.attempt,
        )
        .join(Project, Project.id == waiting.c.project_id)
        .where(waiting.c.gpus_so_far <= room())
        .order_by(is_owed.desc(), num_gpus * 1.0 / Project.weight, waiting.c.id)
        .limit(limit)
    )
    return [WaitingJob(*row) for row in rows]


def states_of(session: Session, job_ids: Sequence[str]) -> dict[str, State]:
    """Return the state of each of the jobs that is in this database."""
    found = {}
    for first in range(0, len(job_ids), IDS_AT_ONCE):
        chosen = Job.id.in_(job_ids[first : first + IDS_AT_ONCE])
        for job_id, status, is_waiting in session.execute(
            select(Job.id, Job.status, Job.is_waiting).where(chosen)
        ):
            running = State.RUNNING if status == JobStatus.RUNNING else State.OTHER
            found[job_id] = State.WAITING if is_waiting else running
    return found
