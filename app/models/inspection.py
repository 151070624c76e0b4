from datetime import datetime
from enum import StrEnum

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt, JsonObject


class InspectionStatus(StrEnum):
    IN_PROGRESS = "in_progress"  # asked for; a worker holds it while `claimed_at` is fresh
    COMPLETED = "completed"
    FAILED = "failed"  # for good: the same question has the same answer


class Inspection(Base):
    """What a file is to a model. `result` is a `falqon_core.spec.inspection.Inspection`."""

    __tablename__ = "inspections"
    __table_args__ = (
        UniqueConstraint("file_id", "model_id", "max_seq_length", "validation_file_id", name="uq_inspections_question"),
        Index("ix_inspections_status", "status"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    file_id: Mapped[str] = mapped_column(ForeignKey("files.id", ondelete="CASCADE"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    max_seq_length: Mapped[int]
    validation_file_id: Mapped[str]  # empty for none: databases tell two nulls apart
    status: Mapped[str]
    result: Mapped[JsonObject | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    created_at: Mapped[CreatedAt]
    claimed_at: Mapped[datetime | None]
