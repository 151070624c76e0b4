from datetime import datetime
from enum import StrEnum

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt


class ExportStatus(StrEnum):
    IN_PROGRESS = "in_progress"  # asked for; a worker holds it while `claimed_at` is fresh
    COMPLETED = "completed"  # there is a model `exported_model_id`, unless it has been deleted since
    FAILED = "failed"


class Export(Base):
    """A wish for a fine-tuned model, or a checkpoint of its job, in another format; what comes of it is a model of its own."""

    __tablename__ = "exports"
    __table_args__ = (UniqueConstraint("exported_model_id"), Index("ix_exports_project_id_source", "project_id", "source"))

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    source: Mapped[str]  # a model's id, or a checkpoint's name
    job_id: Mapped[str]
    step: Mapped[int | None]  # of the checkpoint; null for the model of the job
    format: Mapped[str]
    exported_model_id: Mapped[str]
    status: Mapped[str] = mapped_column(index=True)
    tries: Mapped[int] = mapped_column(default=0)  # the newest one's number is the fencing token
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    created_at: Mapped[CreatedAt]
    claimed_at: Mapped[datetime | None]
