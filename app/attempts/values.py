"""What a worker and the service tell each other of an attempt, in one process or over HTTP."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from app.base.storage import Stored
from app.jobs.claims import Failure
from app.jobs.events import NewEvent
from app.models import Artifact, Checkpoint, Desired, File, Job
from app.models.base import JsonObject
from app.models.job_progress import JobProgress
from falqon_core.contract.messages import CheckpointSaved
from falqon_core.estimate.estimate import Actual
from falqon_core.estimate.prices import Price

MAX_CARDS = 4096
MAX_METRICS = 100
Few = Annotated[int, Field(ge=1, le=MAX_CARDS)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Card = Annotated[int, Field(ge=0, le=MAX_CARDS)]
Cards = Annotated[tuple[Card, ...], Field(max_length=MAX_CARDS)]


def _measure_few_things(events: list[NewEvent]) -> list[NewEvent]:
    """Each metric is a column of a row that many events share."""
    metrics = {key for event in events if event.type == "metrics" for key in event.data or {}}
    if len(metrics) > MAX_METRICS:
        raise ValueError(f"they have more than {MAX_METRICS} metrics")
    return events


NewEvents = Annotated[list[NewEvent], AfterValidator(_measure_few_things)]


class Verdict(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # the user's to solve; never tried again
    # paused until somebody has made space; tried again at once it would only fill up again
    DISK_FULL = "disk_full"
    # requeued uncounted; the worker that met it begins nothing before the storage answers
    STORAGE_AWAY = "storage_away"
    STOPPED = "stopped"  # released as the user or the machine wants it; costs nothing
    LOST = "lost"  # a fault of ours or of the machine; tried again, up to a limit


class Outcome(NamedTuple):
    verdict: Verdict
    failure: Failure | None = None


class Offer(NamedTuple):
    """What a worker has for a job. `cards`: those that the job may have, of `worker_cards`, which
    this worker may use; or none has a name.
    """

    device: str
    num_devices: Few
    max_gpus: Few
    cards: Cards = ()
    worker_cards: Cards = ()


class Claimed(NamedTuple):
    job: Job
    price: Price


class Renewal(NamedTuple):
    desired: Desired
    must_stop: bool


class Inputs(NamedTuple):
    """What an attempt reads. `bases`: by id the checkpoints that its base is merged from, each with
    its job; one that is missing has been deleted. `artifacts`: by model, those it may need.
    """

    files: Sequence[File]
    checkpoints: Sequence[Checkpoint]  # of the job itself, the newest first
    bases: Mapping[str, tuple[Job, Checkpoint]]
    artifacts: Mapping[str, Sequence[Artifact]]
    base_config: JsonObject
    model_id: str  # that its result will have


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Columns(_Value):
    """The columns of a job that its worker reports."""

    progress: JobProgress
    device_seconds: float = Field(ge=0)
    execution_seconds: float = Field(ge=0)

    def values(self) -> JsonObject:
        return {name: getattr(self, name) for name in type(self).model_fields}


class Measured(_Value):
    """The columns of an attempt, those that were measured already."""

    start_step: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    tokens: Count | None = None
    train_seconds: float | None = Field(None, ge=0)
    overhead_seconds: float | None = Field(None, ge=0)

    def values(self) -> JsonObject:
        return self.model_dump(exclude_none=True)


class Batch(_Value):
    """Events of the trainer, of which `before` came earlier."""

    before: Annotated[int, Field(ge=0, lt=2**31)]
    events: NewEvents
    columns: Columns
    measured: Measured


class SavedCheckpoint(_Value):
    """A checkpoint whose bytes are stored. `keep`: so many stay, and the best one."""

    id: str = Field(pattern=r"^ftckpt_[0-9A-Za-z_-]{1,64}$")
    saved: CheckpointSaved
    keep: int = Field(ge=1)

    @model_validator(mode="after")
    def _fit_the_columns(self) -> Self:
        if not (0 <= self.saved.step < 2**31 and 0 <= self.saved.bytes < 2**63):
            raise ValueError("saved: step or bytes are no such numbers")
        return self


class Ending(_Value):
    """How an attempt ended that has no result. `cap`: of the budget, what is used up; `desired`:
    what its worker knew of it.
    """

    verdict: Verdict
    failure: Failure | None
    cap: str | None
    desired: Desired
    has_trained: bool
    trainer_log: str  # its end, of a trainer that failed
    columns: Columns

    @model_validator(mode="after")
    def _give_a_reason(self) -> Self:
        if self.verdict is Verdict.FAILED and self.failure is None:
            raise ValueError("failure: a failed job has a reason")
        return self


class UploadedFile(NamedTuple):
    name: str
    stored: Stored


class Result(_Value):
    """A trained model whose files are stored, below the prefix of its attempt."""

    files: list[UploadedFile]
    config: JsonObject
    trained_tokens: Count
    columns: Columns
    measured: Measured
    actual: Actual | None
