from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.database import now_plus
from app.models import OperationStatus, Trial

_UNSYNCED = {"synchronize_session": False}


def find(session: Session, project_id: str, model_id: str, trial_id: str) -> Trial | None:
    statement = select(Trial).where(Trial.id == trial_id, Trial.project_id == project_id, Trial.model_id == model_id)
    return session.scalars(statement).one_or_none()


def newest(session: Session, project_id: str, model_id: str, limit: int) -> list[Trial]:
    statement = select(Trial).where(Trial.project_id == project_id, Trial.model_id == model_id)
    return list(session.scalars(statement.order_by(Trial.id.desc()).limit(limit)))


def num_in_progress(session: Session, project_id: str) -> int:
    statement = select(func.count()).select_from(Trial)
    return session.scalars(statement.where(Trial.project_id == project_id, Trial.status == OperationStatus.IN_PROGRESS)).one()


def forget(session: Session, older_than_seconds: float) -> None:
    session.execute(delete(Trial).where(Trial.created_at < now_plus(-older_than_seconds)), execution_options=_UNSYNCED)
