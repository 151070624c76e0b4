"""Unscoped queries, for workers only."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.models import Artifact, Model


def get(session: Session, model_id: str) -> Model | None:
    """Return the model, even a deleted one."""
    return session.get(Model, model_id)


def add(session: Session, model: Model, artifacts: Sequence[Artifact]) -> None:
    session.add(model)
    session.flush()
    session.add_all(artifacts)
