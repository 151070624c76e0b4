from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt, JsonObject
from app.models.reported import ReportedMetrics


class Checkpoint(Base):
    """Resumable state of a job after `step` steps. The row is written after the bytes, so a row
    implies them.
    """

    __tablename__ = "checkpoints"
    __table_args__ = (
        UniqueConstraint("job_id", "step", "attempt"),
        Index(
            "ix_checkpoints_project_id_bytes", "project_id", "bytes"
        ),  # index for quotas: summed without the table
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    project_id: Mapped[str | None]  # the job's, once more; null where an older worker wrote the row
    attempt: Mapped[int]
    step: Mapped[int]
    storage_prefix: Mapped[str] = mapped_column(index=True)
    manifest_sha256: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    metrics: Mapped[JsonObject] = mapped_column(ReportedMetrics)
    created_at: Mapped[CreatedAt]
