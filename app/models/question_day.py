from datetime import date
from decimal import Decimal
from enum import StrEnum

from sqlalchemy import BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base
from app.models.usage_day import NanoDollars


class QuestionSource(StrEnum):
    """Origin of a question to a model."""

    REQUEST = "request"
    BATCH = "batch"
    EVALUATION = "evaluation"


class QuestionDay(Base):
    """Questions of an API key to a model on one UTC day, and the tokens read and written."""

    __tablename__ = "question_days"
    __table_args__ = (Index("ix_question_days_project_id_day", "project_id", "day"),)

    day: Mapped[date] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    key_id: Mapped[str] = mapped_column(primary_key=True)  # empty: not recorded
    model_id: Mapped[str] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(primary_key=True)
    base_model_id: Mapped[str]  # the model itself, where that is a base model
    requests: Mapped[int] = mapped_column(BigInteger)
    input_tokens: Mapped[int] = mapped_column(BigInteger)
    output_tokens: Mapped[int] = mapped_column(BigInteger)
    # At the price of the moment. Batches and evaluations cost time of engines instead.
    cost: Mapped[Decimal] = mapped_column(NanoDollars)
