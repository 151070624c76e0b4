from datetime import datetime

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt


class Generation(Base):
    """A prompt and its answers, as releases before the playground kept them for a day. Nothing
    writes one any more; the table stays for their processes, until a release that has none of them
    beside it drops it.
    """

    __tablename__ = "generations"
    __table_args__ = (Index("ix_generations_project_id_model_id", "project_id", "model_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    model_id: Mapped[str]
    base_model_id: Mapped[str | None]
    prompt: Mapped[str]
    max_tokens: Mapped[int]
    answer: Mapped[str]
    base_answer: Mapped[str]
    status: Mapped[str] = mapped_column(index=True)
    attempts: Mapped[int]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    created_at: Mapped[CreatedAt]
    lease_expires_at: Mapped[datetime | None]
    notified_at: Mapped[datetime | None]
