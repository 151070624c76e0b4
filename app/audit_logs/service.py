"""Read-only queries of the audit log, for administrators."""

from collections.abc import Sequence

from app.audit_logs import repository
from app.audit_logs.repository import AuditFilters
from app.audit_logs.schemas import AuditLogObject
from app.auth.audit import ID_PREFIX
from app.auth.caller import Caller
from app.http.pagination import Page, check_cursor
from app.services import Services


def list_audit_logs(
    services: Services,
    caller: Caller,
    *,
    actor_ids: Sequence[str] = (),
    event_types: Sequence[str] = (),
    resource_ids: Sequence[str] = (),
    after: str | None = None,
    limit: int,
) -> Page[AuditLogObject]:
    """Return the newest first; the admin of one project sees the changes made with its keys."""
    check_cursor(after, ID_PREFIX, "an audit log")
    filters = AuditFilters(actor_ids, event_types, resource_ids)
    with services.database.read() as session:
        rows = repository.newest_first(
            session, caller.administered_project, filters, after=after, limit=limit
        )
    return Page[AuditLogObject].of([AuditLogObject.of(log, user) for log, user in rows], limit)
