"""Audit log: a use case that changes something records it in the transaction of the change, so
that neither stands without the other.
"""

from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.auth.caller import Caller
from app.base.database import UNSYNCED, Database, now_plus_once
from app.base.ids import new_id
from app.models import AuditLog

ID_PREFIX = "audit_log-"
RETENTION = timedelta(days=400)


def record(
    session: Session, caller: Caller, event_type: str, resource_id: str | None = None
) -> None:
    """Add an entry, such as `webhook.disabled` with the id of the endpoint."""
    session.add(
        AuditLog(
            id=new_id(ID_PREFIX),
            event_type=event_type,
            resource_id=resource_id,
            project_id=caller.project_id,
            key_id=caller.key_id,
            user_id=caller.user_id,
            session_id=caller.session_id,
            request_id=caller.request_id,
            address=caller.address,
        )
    )


def remove_old(database: Database) -> None:
    """Remove rows beyond their retention."""
    is_old = AuditLog.created_at < now_plus_once(-RETENTION.total_seconds())
    with database.read() as session:
        # Ordered so that Postgres uses the index.
        oldest = select(AuditLog.id).where(is_old).order_by(AuditLog.created_at).limit(1)
        if session.scalar(oldest) is None:
            return
    with database.transaction() as session:
        session.execute(delete(AuditLog).where(is_old), execution_options=UNSYNCED)
