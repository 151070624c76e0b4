from collections.abc import Collection, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import Study


def find(session: Session, project_id: str, study_id: str) -> Study | None:
    statement = select(Study).where(Study.id == study_id, Study.project_id == project_id)
    return session.scalars(statement).one_or_none()


def find_several(session: Session, project_id: str, ids: Collection[str]) -> Sequence[Study]:
    statement = select(Study).where(Study.project_id == project_id, Study.id.in_(ids))
    return session.scalars(statement).all()


def newest_first(
    session: Session, project_id: str, *, after: str | None, limit: int
) -> list[Study]:
    """Return the newest first, at most one more than `limit`."""
    statement = select(Study).where(Study.project_id == project_id)
    if after is not None:
        statement = statement.where(Study.id < after)
    return list(session.scalars(statement.order_by(Study.id.desc()).limit(limit + 1)))
