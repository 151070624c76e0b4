from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app.models import Attempt, Checkpoint, Event, File, Job, JobStatus, Project


class Filters(NamedTuple):
    status: str | None = None
    model: str | None = None
    metadata: dict[str, str] | None = {}  # None: jobs without any


def find(session: Session, project_id: str, job_id: str) -> Job | None:
    return session.scalars(_own(project_id, job_id)).one_or_none()


def find_locked(session: Session, project_id: str, job_id: str) -> Job | None:
    """Its status cannot change before the transaction ends."""
    return session.scalars(_own(project_id, job_id).with_for_update()).one_or_none()


def newest_first(session: Session, project_id: str, filters: Filters, *, after: str | None, limit: int) -> list[Job]:
    statement = select(Job).where(Job.project_id == project_id).order_by(Job.id.desc()).limit(limit + 1)
    if after:
        statement = statement.where(Job.id < after)
    if filters.status is not None:
        statement = statement.where(Job.status == filters.status)
    if filters.model is not None:
        statement = statement.where(Job.base_model_id == filters.model)
    if filters.metadata is None:
        statement = statement.where(Job.job_metadata.is_(None))
    for name, value in (filters.metadata or {}).items():
        statement = statement.where(Job.job_metadata[name].as_string() == value)
    return list(session.scalars(statement))


def attempts(session: Session, job_ids: Sequence[str]) -> dict[str, list[Attempt]]:
    grouped: dict[str, list[Attempt]] = {job_id: [] for job_id in job_ids}
    for attempt in session.scalars(select(Attempt).where(Attempt.job_id.in_(job_ids)).order_by(Attempt.number)):
        grouped[attempt.job_id].append(attempt)
    return grouped


def events_before(session: Session, job_id: str, *, before: int | None, limit: int) -> list[Event]:
    statement = select(Event).where(Event.job_id == job_id).order_by(Event.seq.desc()).limit(limit + 1)
    return list(session.scalars(statement if before is None else statement.where(Event.seq < before)))


def events_after(session: Session, job_id: str, *, after: int, limit: int) -> list[Event]:
    return list(session.scalars(select(Event).where(Event.job_id == job_id, Event.seq > after).order_by(Event.seq).limit(limit)))


def checkpoints(session: Session, job_id: str, *, after: str | None, limit: int) -> list[Checkpoint]:
    statement = select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.id.desc()).limit(limit + 1)
    return list(session.scalars(statement.where(Checkpoint.id < after) if after else statement))


def validating_with(session: Session, file_id: str) -> list[Job]:
    """Locked, so that two checks that end at once see each other's verdict."""
    uses = (Job.training_file_id == file_id) | (Job.validation_file_id == file_id)
    statement = select(Job).where(uses, Job.status == JobStatus.VALIDATING_FILES).order_by(Job.id).with_for_update()
    return list(session.scalars(statement))


def files_of(session: Session, job: Job) -> dict[str, File]:
    """By parameter name."""
    ids = {"training_file": job.training_file_id, "validation_file": job.validation_file_id}
    found = {file.id: file for file in session.scalars(select(File).where(File.id.in_([i for i in ids.values() if i])))}
    return {param: found[file_id] for param, file_id in ids.items() if file_id is not None}


def project_name(session: Session, project_id: str) -> str:
    return session.scalars(select(Project.name).where(Project.id == project_id)).one()


def _own(project_id: str, job_id: str) -> Select[Job]:
    return select(Job).where(Job.id == job_id, Job.project_id == project_id)
