from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.base.database import UNSYNCED, now, now_plus
from app.models import Attempt, Checkpoint, File, Job, JobStatus, Model, Project, Upload, UploadPart
from app.models.job_lifecycle import LIVE


@dataclass(frozen=True, slots=True)
class Booking:
    """Device seconds of a project's month before and after an attempt was added."""

    project: Project
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class ProjectUsage:
    live_jobs: int
    storage_by_kind: dict[str, int]
    device_seconds: float

    @property
    def storage_bytes(self) -> int:
        return sum(self.storage_by_kind.values())


def find(session: Session, project_id: str) -> Project | None:
    return session.get(Project, project_id)


def lock(session: Session, project_id: str) -> Project:
    """Return the project and lock it until the transaction ends.

    A transaction that holds it waits for no other row.
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


def limited(session: Session, *, limit: int) -> list[Project]:
    """Return the active projects with a quota, the newest first."""
    quotas = (Project.max_storage_bytes, Project.max_device_hours, Project.max_live_jobs)
    has_quota = or_(*(quota.is_not(None) for quota in quotas))
    statement = select(Project).where(Project.archived_at.is_(None), has_quota)
    return list(session.scalars(statement.order_by(Project.id.desc()).limit(limit)))


def mark_archived(session: Session, project_id: str) -> None:
    statement = (
        update(Project)
        .where(Project.id == project_id, Project.archived_at.is_(None))
        .values(archived_at=now_plus())
    )
    session.execute(statement, execution_options=UNSYNCED)


def usages(session: Session, projects: Sequence[Project]) -> list[ProjectUsage]:
    """Return the usage of each of the projects, with the same number of statements for any number
    of projects.
    """
    ids = [project.id for project in projects]
    num_jobs, num_bytes = _live_jobs(session, ids), _storage_bytes(session, ids)
    seconds = _device_seconds(session, projects)
    return [ProjectUsage(num_jobs[id_], num_bytes[id_], seconds[id_]) for id_ in ids]


def live_jobs(session: Session, project_id: str) -> int:
    return _live_jobs(session, [project_id])[project_id]


def storage_bytes(session: Session, project_id: str) -> int:
    return sum(_storage_bytes(session, [project_id])[project_id].values())


def device_seconds(session: Session, project: Project) -> float:
    """Return the device seconds of this month: those booked at the end of attempts, and those of
    running ones.
    """
    return _device_seconds(session, [project])[project.id]


def _live_jobs(session: Session, ids: Sequence[str]) -> Counter[str]:
    statement = select(Job.project_id, func.count()).group_by(Job.project_id)
    rows = session.execute(statement.where(Job.project_id.in_(ids), Job.status.in_(LIVE)))
    return Counter(dict(rows.all()))


def _storage_bytes(session: Session, ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the bytes of each project by kind."""

    def sum_of(
        num_bytes: InstrumentedAttribute[int], id_: InstrumentedAttribute[Any]
    ) -> Select[tuple[Any, int]]:
        return select(id_, func.sum(num_bytes)).where(id_.in_(ids)).group_by(id_)

    older = sum_of(Checkpoint.bytes, Job.project_id).join(Job, Job.id == Checkpoint.job_id)
    parts = sum_of(UploadPart.bytes, Upload.project_id)
    statements = (
        ("files", sum_of(File.bytes, File.project_id).where(File.deleted_at.is_(None))),
        ("models", sum_of(Model.bytes, Model.project_id).where(Model.deleted_at.is_(None))),
        ("checkpoints", sum_of(Checkpoint.bytes, Checkpoint.project_id)),
        ("checkpoints", older.where(Checkpoint.project_id.is_(None))),
        ("uploads", parts.join(Upload, Upload.id == UploadPart.upload_id)),
    )
    total = {id_: dict.fromkeys((kind for kind, _ in statements), 0) for id_ in ids}
    for kind, statement in statements:
        for id_, num_bytes in session.execute(statement):
            total[id_][kind] += int(num_bytes)
    return total


def _device_seconds(session: Session, projects: Sequence[Project]) -> dict[str, float]:
    moment = now(session)
    seconds = {
        project.id: project.usage_device_seconds if project.usage_month == month(moment) else 0.0
        for project in projects
    }
    running = (
        select(Job.project_id, Attempt.created_at, Attempt.num_devices)
        .join(Job, Job.id == Attempt.job_id)
        .where(
            Job.project_id.in_(seconds),
            Job.status == JobStatus.RUNNING,
            Attempt.ended_at.is_(None),
        )
    )
    for id_, started, devices in session.execute(running):
        seconds[id_] += _seconds_this_month(started, moment, devices)
    return seconds


def book_attempt(
    session: Session, job_id: str, started: datetime, ended: datetime, num_devices: int
) -> Booking | None:
    """Add to the project's month the part of an attempt in that month; None for a month that is
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
