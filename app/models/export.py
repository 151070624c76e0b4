from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base
from app.models.operation import Operation


class Export(Operation, Base):
    """For a fine-tuned model, or a checkpoint of its job, in another format. Completed, it is the model `exported_model_id`, unless that
    has been deleted since."""

    __tablename__ = "exports"
    __table_args__ = (UniqueConstraint("exported_model_id"), Index("ix_exports_project_id_source", "project_id", "source"))

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    source: Mapped[str]  # a model's id, or a checkpoint's name
    job_id: Mapped[str]
    step: Mapped[int | None]  # of the checkpoint; null for the model of the job
    format: Mapped[str]
    exported_model_id: Mapped[str]
