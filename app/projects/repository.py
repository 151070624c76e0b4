from datetime import datetime
from typing import NamedTuple

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.database import UNSYNCED, now, now_plus
from app.models import Attempt, Checkpoint, File, Job, JobStatus, Model, Project, Upload, UploadPart
from app.models.job_lifecycle import LIVE


class Booking(NamedTuple):
    """The device seconds of a project's month before and after an attempt was added."""

    project: Project
    before: float
    after: float


class Usage(NamedTuple):
    live_jobs: int
    storage_bytes: int
    device_seconds: float


def find(session: Session, project_id: str) -> Project | None:
    return session.get(Project, project_id)


def lock(session: Session, project_id: str) -> Project:
    """Return the project as it is now, and as it stays until the transaction ends.

    Who holds it waits for no other row.
    """
    statement = select(Project).where(Project.id == project_id).with_for_update(key_share=True)
    return session.scalars(statement, execution_options={"populate_existing": True}).one()


def newest_first(
    session: Session, project_id: str | None, *, after: str | None, limit: int
) -> list[Project]:
    """Return a page of projects; an id of None restricts nothing.

    Ids sort by age, and the default project's before all.
    """
    statement = select(Project).order_by(Project.id.desc()).limit(limit + 1)
    if project_id is not None:
        statement = statement.where(Project.id == project_id)
    return list(session.scalars(statement.where(Project.id < after) if after else statement))


def mark_archived(session: Session, project_id: str) -> None:
    statement = (
        update(Project)
        .where(Project.id == project_id, Project.archived_at.is_(None))
        .values(archived_at=now_plus())
    )
    session.execute(statement, execution_options=UNSYNCED)


def usage(session: Session, project: Project) -> Usage:
    return Usage(
        live_jobs(session, project.id),
        storage_bytes(session, project.id),
        device_seconds(session, project),
    )


def live_jobs(session: Session, project_id: str) -> int:
    statement = (
        select(func.count())
        .select_from(Job)
        .where(Job.project_id == project_id, Job.status.in_(LIVE))
    )
    return session.scalars(statement).one()


def storage_bytes(session: Session, project_id: str) -> int:
    files = select(func.sum(File.bytes)).where(
        File.project_id == project_id, File.deleted_at.is_(None)
    )
    models = select(func.sum(Model.bytes)).where(
        Model.project_id == project_id, Model.deleted_at.is_(None)
    )
    checkpoints = select(func.sum(Checkpoint.bytes)).where(Checkpoint.project_id == project_id)
    older = select(func.sum(Checkpoint.bytes)).join(Job, Job.id == Checkpoint.job_id)
    older = older.where(Checkpoint.project_id.is_(None), Job.project_id == project_id)
    parts = (
        select(func.sum(UploadPart.bytes))
        .join(Upload, Upload.id == UploadPart.upload_id)
        .where(Upload.project_id == project_id)
    )
    return sum(
        int(session.scalar(statement) or 0)
        for statement in (files, models, checkpoints, older, parts)
    )


def device_seconds(session: Session, project: Project) -> float:
    """Return those of this month: booked at the end of attempts, and of what runs."""
    moment = now(session)
    running = (
        select(Attempt.created_at, Attempt.num_devices)
        .join(Job, Job.id == Attempt.job_id)
        .where(
            Job.project_id == project.id,
            Job.status == JobStatus.RUNNING,
            Attempt.ended_at.is_(None),
        )
    )
    booked = project.usage_device_seconds if project.usage_month == month(moment) else 0.0
    return booked + sum(
        _seconds_this_month(started, moment, devices)
        for started, devices in session.execute(running)
    )


def book_attempt(
    session: Session, job_id: str, started: datetime, ended: datetime, num_devices: int
) -> Booking | None:
    """Add to the project's month the part of an attempt that lies in it; None for a month that is
    over.

    It is kept beside the job, which its owner may delete.
    """
    current = month(ended)
    project = lock(session, session.scalars(select(Job.project_id).where(Job.id == job_id)).one())
    if project.usage_month is not None and project.usage_month > current:
        return None
    before = project.usage_device_seconds if project.usage_month == current else 0.0
    after = before + _seconds_this_month(started, ended, num_devices)
    project.usage_month = current
    project.usage_device_seconds = after
    session.flush()
    return Booking(project, before, after)


def current_month(session: Session) -> str:
    """Return the month that quotas of device hours are counted in."""
    return month(now(session))


def month(moment: datetime) -> str:
    return f"{moment:%Y-%m}"


def _seconds_this_month(started: datetime, ended: datetime, num_devices: int) -> float:
    first = ended.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (ended - max(started, first)).total_seconds() * num_devices
