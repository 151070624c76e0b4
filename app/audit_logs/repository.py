from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from app.models import AuditLog, User
from app.models.user import USER_PREFIX


@dataclass(frozen=True, slots=True)
class AuditFilters:
    """Filters of a list; an empty field restricts nothing."""

    actor_ids: Sequence[str] = ()  # keys, and persons who own keys
    event_types: Sequence[str] = ()
    resource_ids: Sequence[str] = ()


def newest_first(
    session: Session,
    project_id: str | None,
    filters: AuditFilters,
    *,
    after: str | None,
    limit: int,
) -> list[tuple[AuditLog, User | None]]:
    """Return a page and one more, with the owners of the keys; a project of None restricts
    nothing.
    """
    statement = (
        select(AuditLog, User)
        .outerjoin(User, User.id == AuditLog.user_id)
        .order_by(AuditLog.id.desc())
        .limit(limit + 1)
    )
    if project_id is not None:
        statement = statement.where(AuditLog.project_id == project_id)
    if filters.actor_ids:
        statement = statement.where(_is_by(filters.actor_ids))
    for column, values in (
        (AuditLog.event_type, filters.event_types),
        (AuditLog.resource_id, filters.resource_ids),
    ):
        if values:
            statement = statement.where(column.in_(values))
    rows = session.execute(statement.where(AuditLog.id < after) if after else statement)
    return [(log, user) for log, user in rows]


def _is_by(actor_ids: Sequence[str]) -> ColumnElement[bool]:
    """Restrict to keys or persons: an index serves each, and none serves both."""
    users = [id_ for id_ in actor_ids if id_.startswith(USER_PREFIX)]
    keys = [id_ for id_ in actor_ids if not id_.startswith(USER_PREFIX)]
    columns = ((AuditLog.key_id, keys), (AuditLog.user_id, users))
    return or_(*(column.in_(ids) for column, ids in columns if ids))
