from sqlalchemy import select

from app.base.database import Database
from app.models import AuditLog


def rows_of(database: Database, request_id: str) -> list[AuditLog]:
    """Return what a request has left in the audit log."""
    with database.read() as session:
        rows = select(AuditLog).where(AuditLog.request_id == request_id).order_by(AuditLog.id)
        return list(session.scalars(rows))
