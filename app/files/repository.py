from collections.abc import Sequence
from typing import Literal

from sqlalchemy import Select, delete, select, update
from sqlalchemy.orm import Session

from app.database import now_plus
from app.jobs.lifecycle import LIVE
from app.models import File, FileStatus, Inspection, Job
from app.models.base import JsonObject

REMOVED_AT_ONCE = 100
Order = Literal["asc", "desc"]


def find(session: Session, project_id: str, file_id: str) -> File | None:
    return session.scalars(_own(project_id, [file_id])).one_or_none()


def find_locked(session: Session, project_id: str, file_id: str) -> File | None:
    """To delete it: no new job takes it meanwhile."""
    return session.scalars(_own(project_id, [file_id]).with_for_update()).one_or_none()


def find_several(session: Session, project_id: str, ids: Sequence[str], *, lock: bool) -> list[File]:
    """Locked, they are neither deleted nor judged by a check while the transaction lasts."""
    statement = _own(project_id, ids).order_by(File.id)
    # Shared, or jobs on the same file, as a sweep of hyperparameters makes them, are created one after the other.
    return list(session.scalars(statement.with_for_update(read=True) if lock else statement))


def newest_first(session: Session, project_id: str, *, after: str | None, limit: int, order: Order, purpose: str | None) -> list[File]:
    statement = select(File).where(File.project_id == project_id, File.deleted_at.is_(None)).limit(limit + 1)
    if purpose is not None:
        statement = statement.where(File.purpose == purpose)
    if order == "desc":
        statement = statement.order_by(File.id.desc())
        return list(session.scalars(statement.where(File.id < after) if after else statement))
    return list(session.scalars((statement.where(File.id > after) if after else statement).order_by(File.id)))


def live_job_using(session: Session, project_id: str, file_id: str) -> str | None:
    uses = (Job.training_file_id == file_id) | (Job.validation_file_id == file_id)
    return session.scalar(select(Job.id).where(Job.project_id == project_id, uses, Job.status.in_(LIVE)).limit(1))


def expired(session: Session, *, lock: bool) -> list[File]:
    """Some whose time has come, without those that jobs still need. Locked ones no new job can take."""
    uses = (Job.training_file_id == File.id) | (Job.validation_file_id == File.id)
    needed = select(Job.id).where(uses, Job.status.in_(LIVE)).exists()
    statement = (
        select(File).where(File.expires_at < now_plus(), File.deleted_at.is_(None), ~needed).order_by(File.id).limit(REMOVED_AT_ONCE)
    )
    return list(session.scalars(statement.with_for_update(skip_locked=True) if lock else statement))


def mark_deleted(session: Session, ids: Sequence[str]) -> None:
    statement = update(File).where(File.id.in_(ids), File.deleted_at.is_(None)).values(deleted_at=now_plus())
    session.execute(statement, execution_options={"synchronize_session": False})
    quotes = Inspection.file_id.in_(ids) | Inspection.validation_file_id.in_(ids)
    session.execute(delete(Inspection).where(quotes), execution_options={"synchronize_session": False})


def judge(session: Session, file_id: str, status: FileStatus, details: str, report: JsonObject | None) -> None:
    """Only the first verdict counts."""
    statement = update(File).where(File.id == file_id, File.status == FileStatus.UPLOADED)
    session.execute(
        statement.values(status=status, status_details=details, report=report), execution_options={"synchronize_session": False}
    )


def _own(project_id: str, ids: Sequence[str]) -> Select[File]:
    return select(File).where(File.id.in_(ids), File.project_id == project_id, File.deleted_at.is_(None))
