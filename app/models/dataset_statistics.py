from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import JsonObject
from app.models.operation import Operation


class DatasetStatistics(Operation):
    """Statistics of a file under a model. `result` is a
    `falqon_core.contract.inspection.Inspection`.

    A failure is permanent: a later request for the same statistics gets it again.
    """

    __tablename__ = "dataset_statistics"
    __table_args__ = (
        UniqueConstraint(
            "file_id",
            "model_id",
            "max_seq_length",
            "validation_file_id",
            name="uq_dataset_statistics_key",
        ),
    )
    noun = "inspection"

    file_id: Mapped[str] = mapped_column(ForeignKey("files.id", ondelete="CASCADE"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    max_seq_length: Mapped[int]
    validation_file_id: Mapped[str]  # empty for none: databases tell two nulls apart
    # Written by `falqon_core.contract.template_kwargs`; the most recently requested ones.
    chat_template_kwargs: Mapped[str] = mapped_column(server_default="")
    result: Mapped[JsonObject | None]
