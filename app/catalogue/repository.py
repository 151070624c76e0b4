from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from app.database import now_plus
from app.models import Model


def visible(session: Session, project_id: str) -> list[Model]:
    """Base models, then the project's own, oldest first."""
    statement = select(Model).where(or_(Model.project_id.is_(None), Model.project_id == project_id), Model.deleted_at.is_(None))
    return list(session.scalars(statement.order_by(Model.project_id.is_not(None), Model.created_at, Model.id)))


def find(session: Session, project_id: str, model_id: str) -> Model | None:
    mine = or_(Model.project_id.is_(None), Model.project_id == project_id)
    return session.scalars(select(Model).where(Model.id == model_id, mine, Model.deleted_at.is_(None))).one_or_none()


def mark_deleted(session: Session, model_id: str) -> None:
    session.execute(update(Model).where(Model.id == model_id).values(deleted_at=now_plus()))
