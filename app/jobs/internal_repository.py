"""Unscoped queries, for workers and the reconciler only."""

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.jobs.checkpoints import best_of
from app.jobs.repository import attempts, files_of, metrics, project_name
from app.models import Checkpoint, Job, JobStatus

# Unscoped queries, for workers and for users.
__all__ = ["attempts", "files_of", "metrics", "project_name"]


def find(session: Session, job_id: str) -> Job | None:
    return session.get(Job, job_id)


def any_waits_or_runs(session: Session) -> bool:
    live = Job.status.in_([JobStatus.QUEUED, JobStatus.RUNNING])
    return session.scalar(select(Job.id).where(live).limit(1)) is not None


def last_event_seq(session: Session, job_id: str) -> int | None:
    return session.scalar(select(Job.last_event_seq).where(Job.id == job_id))


def find_checkpoint(session: Session, checkpoint_id: str) -> tuple[Job, Checkpoint] | None:
    """Return the checkpoint and its job."""
    statement = select(Job, Checkpoint).join(Checkpoint, Checkpoint.job_id == Job.id)
    row = session.execute(statement.where(Checkpoint.id == checkpoint_id)).one_or_none()
    return None if row is None else (row[0], row[1])


def checkpoints_newest_first(session: Session, job_id: str) -> list[Checkpoint]:
    order = (Checkpoint.step.desc(), Checkpoint.attempt.desc())
    return list(
        session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(*order))
    )


def add_checkpoint(session: Session, checkpoint: Checkpoint, keep: int) -> list[str]:
    """Delete all but the `keep` newest and the best; return the prefixes of their objects."""
    session.merge(checkpoint)
    session.flush()
    checkpoints = checkpoints_newest_first(session, checkpoint.job_id)
    best = best_of(checkpoints)
    old = [other for other in checkpoints[keep:] if other is not best]
    session.execute(delete(Checkpoint).where(Checkpoint.id.in_([other.id for other in old])))
    return [other.storage_prefix for other in old]
