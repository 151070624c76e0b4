"""Wishes for other formats, and what came of them. Free of the web framework: the worker claims and answers through it."""

from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import orphans
from app.database import now_plus
from app.models import Artifact, Export, ExportStatus, Model

_UNSYNCED = {"synchronize_session": False}


def of_source(session: Session, project_id: str, source: str) -> list[Export]:
    statement = select(Export).where(Export.project_id == project_id, Export.source == source)
    return list(session.scalars(statement.order_by(Export.format)))


def find(session: Session, project_id: str, source: str, format: str) -> Export | None:
    statement = select(Export).where(Export.project_id == project_id, Export.source == source, Export.format == format)
    return session.scalars(statement).one_or_none()


def num_in_progress(session: Session, project_id: str) -> int:
    statement = select(func.count()).select_from(Export)
    return session.scalars(statement.where(Export.project_id == project_id, Export.status == ExportStatus.IN_PROGRESS)).one()


def add(session: Session, export: Export) -> None:
    """Nothing if somebody else has just asked for the same."""
    with suppress(IntegrityError), session.begin_nested():
        session.add(export)


def ask_again(session: Session, export_id: str) -> None:
    """Of one that has failed, or whose model has been deleted."""
    values = {"status": ExportStatus.IN_PROGRESS, "tries": 0, "error_code": None, "error_message": None, "claimed_at": None}
    ended = (Export.id == export_id, Export.status != ExportStatus.IN_PROGRESS)
    session.execute(update(Export).where(*ended).values(**values), execution_options=_UNSYNCED)


def claim(session: Session, stale_seconds: float) -> Export | None:
    """Take the oldest that nobody works on, or whose worker has been silent for so long."""
    free = (
        Export.status == ExportStatus.IN_PROGRESS,
        or_(Export.claimed_at.is_(None), Export.claimed_at < now_plus(-stale_seconds)),
    )
    oldest = select(Export.id).where(*free).order_by(Export.id).limit(1).with_for_update(skip_locked=True).scalar_subquery()
    taken = update(Export).where(Export.id == oldest, *free).values(claimed_at=now_plus(), tries=Export.tries + 1)
    return session.scalars(taken.returning(Export), execution_options=_UNSYNCED).one_or_none()


def renew(session: Session, export: Export) -> bool:
    """False when it is not ours any more."""
    return _write(session, export, claimed_at=now_plus())


def release(session: Session, export: Export) -> None:
    """For somebody else, as if we had never tried."""
    _write(session, export, claimed_at=None, tries=export.tries - 1)


def fail(session: Session, export: Export, code: str, message: str) -> None:
    _write(session, export, status=ExportStatus.FAILED, error_code=code, error_message=message)


def complete(session: Session, export: Export, model: Model, artifacts: Sequence[Artifact]) -> bool:
    """The model, its files and the end of the wish at once. False when it is not ours any more."""
    if not _write(session, export, status=ExportStatus.COMPLETED):
        return False
    before = select(Artifact.storage_key).where(Artifact.model_id == model.id)
    orphans.abandon(session, session.scalars(before).all())  # of the one that was deleted
    session.execute(delete(Artifact).where(Artifact.model_id == model.id), execution_options=_UNSYNCED)
    session.merge(model)
    session.flush()
    session.add_all(artifacts)
    return True


def _write(session: Session, export: Export, **values: object) -> bool:
    mine = (Export.id == export.id, Export.status == ExportStatus.IN_PROGRESS, Export.tries == export.tries)
    return session.scalar(update(Export).where(*mine).values(**values).returning(Export.id), execution_options=_UNSYNCED) is not None
