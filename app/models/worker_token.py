from datetime import datetime

from sqlalchemy import JSON
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt


class WorkerToken(Base):
    """Token that lets workers which reach only the API execute the jobs of these projects."""

    __tablename__ = "worker_tokens"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    project_ids: Mapped[list[str]] = mapped_column(JSON)
    secret_sha256: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[CreatedAt]
    revoked_at: Mapped[datetime | None]
