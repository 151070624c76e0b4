from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field

from app.files.schemas import Lifetime
from app.http.pagination import Object, unix_seconds
from app.models import Batch, OperationStatus
from app.models.answer_file import Metadata
from app.models.batch import BatchFault, Endpoint
from app.models.strict_model import StrictModel

State = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]


class OutputExpiry(StrictModel):
    anchor: Literal["created_at"]
    seconds: Lifetime


class BatchRequest(StrictModel):
    input_file_id: Annotated[
        str, Field(min_length=1, max_length=256, description="a file of purpose `batch`")
    ]
    endpoint: Annotated[Endpoint, Field(description="the `url` of every line")]
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: Annotated[
        OutputExpiry | None, Field(description="lifetime of the files that it makes")
    ] = None


class BatchErrors(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchFault]


class RequestCounts(BaseModel):
    total: int
    completed: int
    failed: int


class InputDetails(BaseModel):
    cached_tokens: int = 0


class OutputDetails(BaseModel):
    reasoning_tokens: int = 0


class BatchUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputDetails = InputDetails()
    output_tokens: int
    output_tokens_details: OutputDetails = OutputDetails()
    total_tokens: int


class BatchObject(Object):
    object: Literal["batch"] = "batch"
    endpoint: str
    model: Annotated[str | None, Field(description="null until the file has been validated")]
    errors: Annotated[BatchErrors | None, Field(description="why it has failed")]
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: State
    output_file_id: Annotated[
        str | None, Field(description="a line for each answer; null until it has ended, or without")
    ]
    error_file_id: Annotated[
        str | None, Field(description="a line for each request without an answer")
    ]
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None

    @classmethod
    def of(cls, batch: Batch) -> Self:
        state = state_of(batch)

        def ended(ending: State) -> int | None:
            return unix_seconds(batch.ended_at) if state == ending else None

        return cls(
            id=batch.id,
            endpoint=batch.endpoint,
            model=batch.model_id,
            errors=_errors_of(batch),
            input_file_id=batch.input_file_id,
            status=state,
            output_file_id=batch.output_file_id,
            error_file_id=batch.error_file_id,
            created_at=int(batch.created_at.timestamp()),
            in_progress_at=unix_seconds(batch.in_progress_at),
            expires_at=int(batch.expires_at.timestamp()),
            finalizing_at=unix_seconds(batch.finalizing_at),
            completed_at=ended("completed"),
            failed_at=ended("failed"),
            expired_at=ended("expired"),
            cancelling_at=unix_seconds(batch.cancelling_at),
            cancelled_at=ended("cancelled"),
            request_counts=RequestCounts(
                total=batch.num_lines, completed=batch.num_completed, failed=batch.num_failed
            ),
            usage=BatchUsage(
                input_tokens=batch.input_tokens,
                output_tokens=batch.output_tokens,
                total_tokens=batch.input_tokens + batch.output_tokens,
            ),
            metadata=batch.labels,
        )


def state_of(batch: Batch) -> State:
    """Return the state as OpenAI's API names it."""
    if batch.status == OperationStatus.FAILED:
        return "failed"
    if batch.status == OperationStatus.COMPLETED:
        endings: dict[str | None, State] = {"expired": "expired", "cancelled": "cancelled"}
        return endings.get(batch.ending, "completed")
    if batch.cancelling_at is not None:
        return "cancelling"
    steps: list[tuple[datetime | None, State]] = [
        (batch.finalizing_at, "finalizing"),
        (batch.in_progress_at, "in_progress"),
    ]
    return next((state for moment, state in steps if moment is not None), "validating")


def _errors_of(batch: Batch) -> BatchErrors | None:
    if batch.status != OperationStatus.FAILED:
        return None
    if batch.faults is not None:
        return BatchErrors(data=batch.faults.data)
    fault = BatchFault(code=batch.error_code or "batch_failed", message=batch.error_message or "")
    return BatchErrors(data=[fault])
