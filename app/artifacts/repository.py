from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import Artifact


def find(session: Session, model_id: str, name: str) -> Artifact | None:
    return session.scalars(
        select(Artifact).where(Artifact.model_id == model_id, Artifact.name == name)
    ).one_or_none()


def list_of_model(session: Session, model_id: str) -> list[Artifact]:
    """Return the files of a model, a deleted one's too."""
    statement = select(Artifact).where(Artifact.model_id == model_id)
    return list(session.scalars(statement.order_by(Artifact.name)))


def replace(session: Session, artifact: Artifact) -> Artifact | None:
    """Add a file of a model. Return the one of that name that it replaces."""
    before = find(session, artifact.model_id, artifact.name)
    if before is not None:
        session.delete(before)
        session.flush()
    session.add(artifact)
    return before
