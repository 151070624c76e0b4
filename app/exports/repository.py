"""Exports to other formats, and their results. Free of the web framework: the worker completes them
through it.
"""

from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.base.database import UNSYNCED
from app.garbage import orphans
from app.models import Artifact, Export, Model
from app.operations import claims
from falqon_core.contract.rounding import Rounding


def list_of_source(session: Session, project_id: str, source: str) -> list[Export]:
    statement = select(Export).where(Export.project_id == project_id, Export.source == source)
    return list(session.scalars(statement.order_by(Export.format)))


def list_of_sources(
    session: Session, project_id: str, sources: Sequence[str], format: str
) -> list[Export]:
    return list(
        session.scalars(
            select(Export).where(
                Export.project_id == project_id,
                Export.source.in_(sources),
                Export.format == format,
            )
        )
    )


def find(session: Session, project_id: str, source: str, format: str) -> Export | None:
    statement = select(Export).where(
        Export.project_id == project_id, Export.source == source, Export.format == format
    )
    return session.scalars(statement).one_or_none()


def add(session: Session, export: Export) -> None:
    """Add it unless another caller has just added the same."""
    with suppress(IntegrityError), session.begin_nested():
        session.add(export)


def complete(
    session: Session,
    export: Export,
    model: Model,
    artifacts: Sequence[Artifact],
    rounding: Rounding | None = None,
) -> bool:
    """Write the model, its files and the end of the export; False when the lease is lost."""
    if not claims.complete(session, export, rounding=rounding):
        return False
    before = select(Artifact.storage_key).where(Artifact.model_id == model.id)
    orphans.mark_orphaned(session, session.scalars(before).all())  # files of the deleted export
    session.execute(
        delete(Artifact).where(Artifact.model_id == model.id), execution_options=UNSYNCED
    )
    session.merge(model)
    session.flush()
    session.add_all(artifacts)
    return True
