from sqlalchemy import Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import PydanticType
from app.models.operation import Operation
from falqon_core.contract.rounding import Rounding


class Export(Operation):
    """Fine-tuned model, or a checkpoint of its job, in another format. Completed, it is the model
    `exported_model_id`, unless that has been deleted since.
    """

    __tablename__ = "exports"
    __table_args__ = (
        UniqueConstraint("exported_model_id"),
        Index("ix_exports_project_id_source", "project_id", "source"),
    )
    noun = "export"

    source: Mapped[str]  # a model's id, or a checkpoint's name
    job_id: Mapped[str]
    step: Mapped[int | None]  # step of the checkpoint; null for the model of the job
    format: Mapped[str]
    exported_model_id: Mapped[str]
    # What its rounding costs; null where nothing is rounded or no rows were there to measure on.
    rounding: Mapped[Rounding | None] = mapped_column(PydanticType(Rounding, drop_invalid=True))
