from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import AuditLog


@dataclass(frozen=True, slots=True)
class AuditFilters:
    """Filters of a list; an empty field restricts nothing."""

    key_ids: Sequence[str] = ()
    event_types: Sequence[str] = ()
    resource_ids: Sequence[str] = ()


def newest_first(
    session: Session,
    project_id: str | None,
    filters: AuditFilters,
    *,
    after: str | None,
    limit: int,
) -> list[AuditLog]:
    """Return a page and one more; a project of None restricts nothing."""
    statement = select(AuditLog).order_by(AuditLog.id.desc()).limit(limit + 1)
    if project_id is not None:
        statement = statement.where(AuditLog.project_id == project_id)
    for column, values in (
        (AuditLog.key_id, filters.key_ids),
        (AuditLog.event_type, filters.event_types),
        (AuditLog.resource_id, filters.resource_ids),
    ):
        if values:
            statement = statement.where(column.in_(values))
    return list(session.scalars(statement.where(AuditLog.id < after) if after else statement))
