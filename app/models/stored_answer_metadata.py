from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base


class StoredAnswerMetadata(Base):
    """Pair of the metadata of a stored answer: no JSON operator is fast on both databases."""

    __tablename__ = "stored_answer_metadata"
    __table_args__ = (
        Index(
            "ix_stored_answer_metadata_project_id_name_value_answer_id",
            "project_id",
            "name",
            "value",
            "answer_id",
        ),
    )

    answer_id: Mapped[str] = mapped_column(
        ForeignKey("stored_answers.id", ondelete="CASCADE"), primary_key=True
    )
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
    project_id: Mapped[str]
