from sqlalchemy import or_, update
from sqlalchemy.orm import Session

from app.base.database import UNSYNCED, now_plus
from app.models import Model

NOTED_EVERY_SECONDS = 3600.0


def note_use(session: Session, model_id: str) -> None:
    """Record that a model is asked or downloaded, at most once an hour; its end is called off."""
    is_due = or_(
        Model.used_at.is_(None),
        Model.used_at < now_plus(-NOTED_EVERY_SECONDS),
        Model.expires_at.is_not(None),
    )
    statement = update(Model).where(Model.id == model_id, is_due)
    session.execute(
        statement.values(used_at=now_plus(), expires_at=None), execution_options=UNSYNCED
    )
