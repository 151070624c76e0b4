"""Rows that wait for a worker, and the time of their last notification."""

from collections.abc import Sequence

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from app.base.database import UNSYNCED, now_plus
from app.models import Job
from app.models.operation import Operation

Kind = type[Job] | type[Operation]
Conditions = Sequence[ColumnElement[bool]]


def oldest(session: Session, kind: Kind, waiting: Conditions, limit: int) -> Sequence[str]:
    """Return ids."""
    return session.scalars(select(kind.id).where(*waiting).order_by(kind.id).limit(limit)).all()


def mark(
    session: Session, kind: Kind, ids: Sequence[str], waiting: Conditions, again_seconds: float
) -> Sequence[str]:
    """Return the ids that still wait and had no recent notification. No id is returned twice."""
    is_due = or_(kind.notified_at.is_(None), kind.notified_at < now_plus(-again_seconds))
    statement = (
        update(kind)
        .where(kind.id.in_(ids), *waiting, is_due)
        .values(notified_at=now_plus())
        .returning(kind.id)
    )
    return session.scalars(statement, execution_options=UNSYNCED).all()
