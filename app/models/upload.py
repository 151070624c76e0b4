from datetime import datetime
from enum import StrEnum

from sqlalchemy import JSON, BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import CreatedAt
from app.models.leased import Leased


class UploadStatus(StrEnum):
    PENDING = "pending"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Upload(Leased):
    """File that arrives in parts. While it is pending its parts have rows; afterwards only the
    file, if there is one, has. The call that completes it holds the lease.
    """

    __tablename__ = "uploads"
    __table_args__ = (Index("ix_uploads_status_expires_at", "status", "expires_at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    status: Mapped[str]
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    file_lifetime_seconds: Mapped[int | None]  # lifetime of the file that it becomes
    # Arguments of its completion, to recognise a retry.
    part_ids: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    file_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"))
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[datetime]
    # An older version adds rows without it.
    attempt: Mapped[int] = mapped_column(default=0, server_default="0")
