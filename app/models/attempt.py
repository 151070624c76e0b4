import math
from datetime import datetime

from sqlalchemy import JSON, BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt
from app.models.reported import ReportedFloat

OUTCOME_LOST = "lost"


class Attempt(Base):
    """Execution of a job. `outcome` is null while it lasts, then succeeded, failed, cancelled,
    paused, released or lost.
    """

    __tablename__ = "attempts"
    __table_args__ = (
        Index("ix_attempts_kind", "base_model_id", "method", "device", "num_devices", "created_at"),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    worker: Mapped[str]
    device: Mapped[str]
    num_devices: Mapped[int]
    # By index, on a CPU of its slots; null for an attempt before they were recorded.
    cards: Mapped[list[int] | None] = mapped_column(JSON(none_as_null=True))
    base_model_id: Mapped[str | None]
    method: Mapped[str | None]
    start_step: Mapped[int | None]
    # Number of its trainer's events that are written.
    relayed: Mapped[int] = mapped_column(default=0, server_default="0")
    # Size of its trainer's log, which is in the storage; 0: there is none.
    log_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    created_at: Mapped[CreatedAt]
    ended_at: Mapped[datetime | None] = mapped_column(index=True)
    outcome: Mapped[str | None]
    error_code: Mapped[str | None]
    # Tokens trained in this attempt, as last reported.
    tokens: Mapped[int | None] = mapped_column(BigInteger)
    # Seconds from its first step to its last one, evaluations and checkpoints included.
    train_seconds: Mapped[float | None] = mapped_column(ReportedFloat)
    # Seconds of everything else, to its end; null until it has succeeded.
    overhead_seconds: Mapped[float | None] = mapped_column(ReportedFloat)

    @property
    def tokens_per_second(self) -> float | None:
        if not self.tokens or not self.train_seconds:
            return None
        rate = self.tokens / self.train_seconds
        return rate if math.isfinite(rate) else None
