from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base
from app.models.operation import Operation


class Trial(Operation, Base):
    """For the answer of a model to a prompt, and that of its base model beside it. Answers grow while they are written."""

    __tablename__ = "trials"
    __table_args__ = (Index("ix_trials_project_id_model_id", "project_id", "model_id"),)

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    model_id: Mapped[str]
    base_model_id: Mapped[str | None]  # null where the model has none, or it has been deleted
    prompt: Mapped[str]
    max_tokens: Mapped[int]
    answer: Mapped[str] = mapped_column(default="")
    base_answer: Mapped[str] = mapped_column(default="")
