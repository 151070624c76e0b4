from sqlalchemy import ForeignKey, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base


class EvaluationAnswer(Base):
    """Answers of the base and of the last model to one row of an evaluation; long texts are cut.
    Each is null until it is given, or where the engine refused the row.
    """

    __tablename__ = "evaluation_answers"

    evaluation_id: Mapped[str] = mapped_column(
        ForeignKey("evaluations.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True)  # of the row in the scores, from 0
    line: Mapped[int]  # in the file
    prompt: Mapped[str] = mapped_column(Text)  # the last message before the answer
    expected: Mapped[str] = mapped_column(Text)
    base_answer: Mapped[str | None] = mapped_column(Text)
    answer: Mapped[str | None] = mapped_column(Text)
