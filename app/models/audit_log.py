from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt


class AuditLog(Base):
    """Change and its author: a row of the same transaction as the change."""

    __tablename__ = "audit_logs"
    __table_args__ = (
        Index("ix_audit_logs_project_id_id", "project_id", "id"),
        Index("ix_audit_logs_created_at", "created_at"),
        Index("ix_audit_logs_key_id_id", "key_id", "id"),
        Index("ix_audit_logs_user_id_id", "user_id", "id"),
        Index("ix_audit_logs_event_type_id", "event_type", "id"),
        Index("ix_audit_logs_resource_id_id", "resource_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[CreatedAt]
    event_type: Mapped[str]  # job.created
    resource_id: Mapped[str | None]  # the changed object, if it was a single one
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))  # project of the API key
    key_id: Mapped[str]
    user_id: Mapped[str | None]  # person that the key belongs to; null: it is the project's
    session_id: Mapped[str | None]  # session of the dashboard; null: over the API
    request_id: Mapped[str]
    address: Mapped[str]
