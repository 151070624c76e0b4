from sqlalchemy import JSON, BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt


class Artifact(Base):
    """Downloadable file of a model."""

    __tablename__ = "artifacts"

    model_id: Mapped[str] = mapped_column(
        ForeignKey("models.id", ondelete="CASCADE"), primary_key=True
    )
    name: Mapped[str] = mapped_column(primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    # Null: stored before blocks were hashed.
    block_sha256: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    storage_key: Mapped[str] = mapped_column(index=True)
    created_at: Mapped[CreatedAt]
