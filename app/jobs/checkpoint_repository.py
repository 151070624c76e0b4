"""Checkpoints of jobs. Queries without a project are for callers that have read the job."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, Select, delete, exists, select
from sqlalchemy.orm import Session

from app.jobs.checkpoints import best_of
from app.models import Checkpoint, CheckpointPermission, Job, Project
from app.models.job_lifecycle import TERMINAL


class NamedCheckpoint(NamedTuple):
    """A checkpoint with what its name is made of."""

    checkpoint: Checkpoint
    job: Job
    project_name: str


def newest_first(
    session: Session, job_id: str, *, after: str | None, limit: int
) -> list[Checkpoint]:
    statement = (
        select(Checkpoint)
        .where(Checkpoint.job_id == job_id)
        .order_by(Checkpoint.id.desc())
        .limit(limit + 1)
    )
    return list(session.scalars(statement.where(Checkpoint.id < after) if after else statement))


def of_job(session: Session, job_id: str) -> list[Checkpoint]:
    """Return all checkpoints of a job, the last step first."""
    order = (Checkpoint.step.desc(), Checkpoint.attempt.desc())
    return list(
        session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(*order))
    )


def of_jobs(session: Session, job_ids: Sequence[str]) -> dict[str, list[Checkpoint]]:
    grouped: dict[str, list[Checkpoint]] = {job_id: [] for job_id in job_ids}
    for checkpoint in session.scalars(
        select(Checkpoint).where(Checkpoint.job_id.in_(job_ids)).order_by(Checkpoint.id)
    ):
        grouped[checkpoint.job_id].append(checkpoint)
    return grouped


def find_with_job(session: Session, checkpoint_id: str) -> tuple[Job, Checkpoint] | None:
    """Return the checkpoint with its job."""
    statement = select(Job, Checkpoint).join(Checkpoint, Checkpoint.job_id == Job.id)
    row = session.execute(statement.where(Checkpoint.id == checkpoint_id)).one_or_none()
    return None if row is None else (row[0], row[1])


def find_named(session: Session, checkpoint_ids: Collection[str]) -> dict[str, NamedCheckpoint]:
    """Return by id those of the checkpoints that are still there."""
    rows = session.execute(_named().where(Checkpoint.id.in_(checkpoint_ids)))
    return {row[0].id: NamedCheckpoint(*row) for row in rows}


def exists_still(session: Session, checkpoint_id: str) -> bool:
    return session.scalar(select(Checkpoint.id).where(Checkpoint.id == checkpoint_id)) is not None


def find_own(session: Session, project_id: str, job_tail: str, step: int) -> list[NamedCheckpoint]:
    # By themselves the ids come from an index alone.
    ids = session.scalars(
        select(Job.id).where(Job.project_id == project_id, Job.id.endswith(job_tail))
    ).all()
    return _of_step(session, step, Job.id.in_(ids))


def find_permitted(
    session: Session, project_id: str, job_tail: str, step: int
) -> list[NamedCheckpoint]:
    permitted = exists().where(
        CheckpointPermission.checkpoint_id == Checkpoint.id,
        CheckpointPermission.project_id == project_id,
    )
    return _of_step(session, step, permitted, Job.id.endswith(job_tail))


def live_job_from(session: Session, job_id: str) -> tuple[str, str] | None:
    """Return the id and the project of a job that needs a checkpoint of this one, directly or
    because it continues from one that did.
    """
    older = [job_id]
    while older:
        checkpoints = select(Checkpoint.id).where(Checkpoint.job_id.in_(older))
        jobs = session.execute(
            select(Job.id, Job.project_id, Job.status).where(
                Job.base_checkpoint_id.in_(checkpoints)
            )
        ).all()
        for id_, project_id, status in jobs:
            if status not in TERMINAL:
                return id_, project_id
        older = [id_ for id_, _, _ in jobs]
    return None


def lacks_its_base(session: Session, job: Job) -> bool:
    """Return whether a checkpoint that the job builds on, directly or not, has been deleted."""
    current: Job | None = job
    while current is not None and current.base_checkpoint_id is not None:
        checkpoint = session.get(Checkpoint, current.base_checkpoint_id)
        current = session.get(Job, checkpoint.job_id) if checkpoint else None
    return current is None


def add(session: Session, checkpoint: Checkpoint, keep: int) -> list[str]:
    """Add a checkpoint and delete all but the `keep` newest and the best; return the storage
    prefixes of the deleted.
    """
    session.merge(checkpoint)
    session.flush()
    checkpoints = of_job(session, checkpoint.job_id)
    best = best_of(checkpoints)
    old = [other for other in checkpoints[keep:] if other is not best]
    session.execute(delete(Checkpoint).where(Checkpoint.id.in_([other.id for other in old])))
    return [other.storage_prefix for other in old]


def _of_step(
    session: Session, step: int, *conditions: ColumnElement[bool]
) -> list[NamedCheckpoint]:
    """Return the newest first; several attempts may have reached the same step."""
    rows = session.execute(
        _named().where(Checkpoint.step == step, *conditions).order_by(Checkpoint.id.desc())
    )
    return [NamedCheckpoint(*row) for row in rows]


def _named() -> Select[Checkpoint, Job, str]:
    return (
        select(Checkpoint, Job, Project.name)
        .join(Job, Job.id == Checkpoint.job_id)
        .join(Project, Project.id == Job.project_id)
    )
