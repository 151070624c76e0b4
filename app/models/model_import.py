from sqlalchemy import BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import StoredJson
from app.models.operation import Operation


class ModelImport(Operation):
    """Import of a base model into the catalogue. Completed, it is the model `model_id`, unless that
    has been deleted since. Its project is that of the requesting administrator.
    """

    __tablename__ = "model_imports"
    __table_args__ = (Index("ix_model_imports_created_at", "created_at"),)
    noun = "model_import"

    model_id: Mapped[str]
    source: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)  # bytes on the worker so far
    # Conversions of the source, a sentence each.
    conversions: Mapped[list[str]] = mapped_column(StoredJson, default=list, server_default="[]")
