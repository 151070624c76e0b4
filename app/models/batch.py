from datetime import datetime
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel
from sqlalchemy import BigInteger, ForeignKey, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, JsonObject, PydanticType
from app.models.operation import Operation
from app.models.usage_day import Dollars

Endpoint = Literal["/v1/chat/completions", "/v1/responses"]
Ending = Literal["completed", "expired", "cancelled", "failed"]
MAX_BATCH_LINES = 50_000
MAX_BATCH_BYTES = 200 * 2**20
MAX_ANSWER_BYTES = 2 * 2**30  # of all answers together


class BatchFault(BaseModel):
    """A fault that ends a batch before its first request, or a reason why it has failed."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchFaults(BaseModel):
    data: list[BatchFault]


class Batch(Operation):
    """Requests of a file that a worker sends to engines, behind those of waiting clients. The
    moment of each step says how far it is; `app.batches.schemas` has the states.
    """

    __tablename__ = "batches"
    __table_args__ = (
        Index("ix_batches_project_id_id", "project_id", "id"),
        Index("ix_batches_input_file_id", "input_file_id"),
        Index(
            "uq_batches_project_id_idempotency_key", "project_id", "idempotency_key", unique=True
        ),
    )
    noun = "batch"

    key_id: Mapped[str]  # the API key that created it, whose limits count
    idempotency_key: Mapped[str | None]
    endpoint: Mapped[str]
    input_file_id: Mapped[str] = mapped_column(ForeignKey("files.id"))
    labels: Mapped[JsonObject | None] = mapped_column("metadata")
    output_lifetime_seconds: Mapped[int | None]  # of the files that it makes

    model_id: Mapped[str | None]  # as the requests name it; known after the validation
    num_lines: Mapped[int] = mapped_column(default=0)
    num_completed: Mapped[int] = mapped_column(default=0)
    num_failed: Mapped[int] = mapped_column(default=0)
    input_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    output_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    answer_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    # Time in which engines of workers answered, and its cost at the price of each moment.
    seconds: Mapped[float] = mapped_column(default=0.0)
    cost: Mapped[Decimal | None] = mapped_column(Dollars)
    useful_attempt: Mapped[int] = mapped_column(default=0)  # the last one that kept an answer

    faults: Mapped[BatchFaults | None] = mapped_column(PydanticType(BatchFaults))
    ending: Mapped[str | None]  # decided when its files are about to be written
    output_file_id: Mapped[str | None]
    error_file_id: Mapped[str | None]

    expires_at: Mapped[datetime]
    in_progress_at: Mapped[datetime | None]
    cancelling_at: Mapped[datetime | None]
    finalizing_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class BatchAnswer(Base):
    """Answer to a line of a batch, until the batch's files are written."""

    __tablename__ = "batch_answers"

    batch_id: Mapped[str] = mapped_column(
        ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True
    )
    line: Mapped[int] = mapped_column(primary_key=True)
    has_failed: Mapped[bool]  # it belongs into the error file
    content: Mapped[str] = mapped_column(Text)  # the line of the file
