from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, JsonObject
from app.models.operation import Operation


class Inspection(Operation, Base):
    """For the answer to what a file is to a model. `result` is an `Inspection` of `falqon_core.contract.inspection`.

    A failure is for good: who asks the same again is told it again.
    """

    __tablename__ = "inspections"
    __table_args__ = (UniqueConstraint("file_id", "model_id", "max_seq_length", "validation_file_id", name="uq_inspections_question"),)

    file_id: Mapped[str] = mapped_column(ForeignKey("files.id", ondelete="CASCADE"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    max_seq_length: Mapped[int]
    validation_file_id: Mapped[str]  # empty for none: databases tell two nulls apart
    result: Mapped[JsonObject | None]
