from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base


class JobMetadata(Base):
    """Pairs of `jobs.metadata` once more, one a row: no JSON operator is fast on both databases."""

    __tablename__ = "job_metadata"
    __table_args__ = (
        Index(
            "ix_job_metadata_project_id_name_value_job_id", "project_id", "name", "value", "job_id"
        ),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
    project_id: Mapped[str]
