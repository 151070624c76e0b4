"""Wishes for other formats, and what came of them. Free of the web framework: the worker answers through it."""

from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.garbage import orphans
from app.models import Artifact, Export, Model, OperationStatus
from app.operations import claims

_UNSYNCED = {"synchronize_session": False}


def of_source(session: Session, project_id: str, source: str) -> list[Export]:
    statement = select(Export).where(Export.project_id == project_id, Export.source == source)
    return list(session.scalars(statement.order_by(Export.format)))


def find(session: Session, project_id: str, source: str, format: str) -> Export | None:
    statement = select(Export).where(Export.project_id == project_id, Export.source == source, Export.format == format)
    return session.scalars(statement).one_or_none()


def num_in_progress(session: Session, project_id: str) -> int:
    statement = select(func.count()).select_from(Export)
    return session.scalars(statement.where(Export.project_id == project_id, Export.status == OperationStatus.IN_PROGRESS)).one()


def add(session: Session, export: Export) -> None:
    """Nothing if somebody else has just asked for the same."""
    with suppress(IntegrityError), session.begin_nested():
        session.add(export)


def ask_again(session: Session, export_id: str) -> None:
    """Of one that has failed, or whose model has been deleted."""
    values = {"status": OperationStatus.IN_PROGRESS, "tries": 0, "error_code": None, "error_message": None, "claimed_at": None}
    ended = (Export.id == export_id, Export.status != OperationStatus.IN_PROGRESS)
    session.execute(update(Export).where(*ended).values(**values), execution_options=_UNSYNCED)


def complete(session: Session, export: Export, model: Model, artifacts: Sequence[Artifact]) -> bool:
    """The model, its files and the end of the operation at once. False when it is not ours any more."""
    if not claims.write(session, export, status=OperationStatus.COMPLETED):
        return False
    before = select(Artifact.storage_key).where(Artifact.model_id == model.id)
    orphans.abandon(session, session.scalars(before).all())  # of the one that was deleted
    session.execute(delete(Artifact).where(Artifact.model_id == model.id), execution_options=_UNSYNCED)
    session.merge(model)
    session.flush()
    session.add_all(artifacts)
    return True
