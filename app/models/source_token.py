from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt, JsonObject


class SourceToken(Base):
    """Token with which a project reads private sources of files. It is written and never shown."""

    __tablename__ = "source_tokens"
    __table_args__ = (UniqueConstraint("project_id", "kind"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    kind: Mapped[str]  # hf, s3
    secret: Mapped[JsonObject]
    created_at: Mapped[CreatedAt]
