from enum import StrEnum

from sqlalchemy import BigInteger, ForeignKey, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt

CORRECTED = text("corrected IS NOT NULL")


class AnswerKind(StrEnum):
    CHAT = "chat.completion"
    RESPONSE = "response"


PREFIXES = {AnswerKind.CHAT: "chatcmpl-", AnswerKind.RESPONSE: "resp_"}


class StoredAnswer(Base):
    """Answer of a model that its request asked to store, with the question.

    Both are bounded by the size of a request, so they stand in the row: an answer and its deletion
    are one transaction, and no bytes can stay behind. They are JSON as text: JSONB refuses the
    halves of characters and the NULs that a model may write.
    """

    __tablename__ = "stored_answers"
    __table_args__ = (
        Index("ix_stored_answers_project_id_id", "project_id", "id"),
        Index("ix_stored_answers_project_id_kind_id", "project_id", "kind", "id"),
        Index("ix_stored_answers_project_id_model_id", "project_id", "model", "id"),
        Index(
            "ix_stored_answers_corrected",
            "project_id",
            "id",
            sqlite_where=CORRECTED,
            postgresql_where=CORRECTED,
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)  # without the prefix: ids sort by age
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    kind: Mapped[str]
    model: Mapped[str]
    key_id: Mapped[str]
    created_at: Mapped[CreatedAt]
    bytes: Mapped[int] = mapped_column(BigInteger)
    document: Mapped[str] = mapped_column(Text)  # the object as its client got it
    corrected: Mapped[str | None] = mapped_column(Text)  # the message that should have come
    question: Mapped[str] = mapped_column(Text, deferred=True)

    @property
    def public_id(self) -> str:
        return PREFIXES[AnswerKind(self.kind)] + self.id
