"""Unscoped queries, for workers only."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import Artifact


def list_of_model(session: Session, model_id: str) -> list[Artifact]:
    """Return the files of a model, deleted or not."""
    statement = select(Artifact).where(Artifact.model_id == model_id)
    return list(session.scalars(statement.order_by(Artifact.name)))
