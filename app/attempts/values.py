"""Values of an attempt that a worker and the service exchange, in one process or over HTTP."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from app.base.storage import BLOCK_BYTES, Stored, keys
from app.jobs.claims import JobFailure
from app.jobs.events import NewEvent
from app.jobs.readings import is_step
from app.models import Artifact, Checkpoint, Desired, File, Job
from app.models.base import JsonObject
from app.models.job_progress import JobProgress
from app.models.reported import is_measure
from falqon_core.contract.figures import (
    MAX_COUNT,
    MAX_MEASURE,
    MAX_STEPS,
    Count,
    DeviceSeconds,
    Seconds,
    Step,
)
from falqon_core.contract.messages import MAX_METRICS, CheckpointSaved, Sampled
from falqon_core.estimate.estimate import Actual
from falqon_core.estimate.prices import Price

MAX_CARDS = 4096
MAX_EVENTS = 5_000  # per call; a worker sends a thousand at a time
MAX_EVENT_BYTES = 2**21
MAX_FILES = 1_000  # per model
MAX_LOG = 2**16  # characters of a trainer's log with the failure of its attempt
MAX_INTEGER = 2**63
AMOUNT_PATTERN = re.compile(r"[0-9]{1,21}(\.[0-9]{1,9})?")
AMOUNT_PREFIX = "cost_"  # prefix of the metrics that are money, as decimal text
# Keys that only the service's own events contain.
RESERVED_KEYS = ("worker", "trainer_log", "evaluation")
DIGEST_PATTERN = re.compile(r"[0-9a-f]{64}")
MAX_KEY = 64
Few = Annotated[int, Field(ge=1, le=MAX_CARDS)]
Card = Annotated[int, Field(ge=0, le=MAX_CARDS)]
Cards = Annotated[tuple[Card, ...], Field(max_length=MAX_CARDS)]


def _check_events(events: list[NewEvent]) -> list[NewEvent]:
    """Check the events: each metric is a column of a row that many events share, and a number."""
    metrics = {key for event in events if event.type == "metrics" for key in event.data or {}}
    if len(metrics) > MAX_METRICS:
        raise ValueError(f"they have more than {MAX_METRICS} metrics")
    for number, event in enumerate(events):
        data = event.data or {}
        if event.type == "metrics":
            _check_metrics(number, data)
        else:
            _check_message(number, data)
    return events


def _check_metrics(number: int, data: JsonObject) -> None:
    if not is_step(data.get("step")):
        raise ValueError(f"{number}.data.step: it is no number of a step")
    for key, value in data.items():
        if len(key) > MAX_KEY:
            raise ValueError(f"{number}.data: a name is longer than {MAX_KEY} characters")
        is_amount = (
            key.startswith(AMOUNT_PREFIX)
            and isinstance(value, str)
            and AMOUNT_PATTERN.fullmatch(value)
        )
        if value is not None and not is_amount and not is_measure(value):
            raise ValueError(f"{number}.data.{key}: it is no number of at most {MAX_MEASURE:g}")


def _check_message(number: int, data: JsonObject) -> None:
    for key in RESERVED_KEYS:
        if key in data:
            raise ValueError(f"{number}.data.{key}: the service itself writes it")
    if "samples" in data:
        try:
            _sampled.validate_python({"step": data.get("step"), "samples": data["samples"]})
        except ValidationError:
            raise ValueError(f"{number}.data.samples: they are no samples of a step") from None
    _check_json(number, data)


def _check_json(number: int, data: JsonObject) -> None:
    """Refuse numbers beyond the range of other readers, and text that is too long."""
    left = MAX_EVENT_BYTES
    waiting: list[Any] = [data]
    while waiting:
        value = waiting.pop()
        left -= 1
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str):
            left -= len(value)
        elif isinstance(value, int | float) and not -MAX_INTEGER <= value < MAX_INTEGER:
            raise ValueError(f"{number}.data: it holds a number that is too large")
        if left < 0:
            raise ValueError(f"{number}.data: it is larger than {MAX_EVENT_BYTES} bytes")


NewEvents = Annotated[list[NewEvent], Field(max_length=MAX_EVENTS), AfterValidator(_check_events)]
_sampled = TypeAdapter(Sampled)


def _check_stored(stored: Stored) -> Stored:
    num_blocks = max(1, -(-stored.bytes // BLOCK_BYTES))
    digests = [stored.sha256, *stored.block_sha256]
    if not 0 <= stored.bytes <= MAX_COUNT or len(stored.block_sha256) != num_blocks:
        raise ValueError(f"it has a checksum for each {BLOCK_BYTES} bytes, and not less than none")
    if not all(DIGEST_PATTERN.fullmatch(digest) for digest in digests):
        raise ValueError("a checksum is no SHA-256 in hexadecimal digits")
    return stored


class Verdict(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # an error of the user; never retried
    # Paused until space is freed: an immediate retry would only fill the disk again.
    DISK_FULL = "disk_full"
    # Requeued uncounted; the worker that met it claims nothing until the storage responds.
    STORAGE_AWAY = "storage_away"
    STOPPED = "stopped"  # released at the request of the user or the machine; costs nothing
    LOST = "lost"  # a defect of ours or of the machine; retried, up to a limit


@dataclass(frozen=True, slots=True)
class AttemptOutcome:
    verdict: Verdict
    failure: JobFailure | None = None


class WorkerOffer(NamedTuple):
    """Capacity that a worker offers for a job. `cards`: the cards that the job may have, out of
    `worker_cards`, which this worker may use; or none has a name.
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


@dataclass(frozen=True, slots=True)
class Inputs:
    """Inputs of an attempt. `bases`: by id the checkpoints that its base is merged from, each with
    its job; a missing checkpoint was deleted. `began_from`: by job, these and the job itself, the
    name of the model that its training begins from. `artifacts`: by model, the files it may need.
    """

    files: Sequence[File]
    checkpoints: Sequence[Checkpoint]  # checkpoints of the job itself, newest first
    bases: Mapping[str, tuple[Job, Checkpoint]]
    began_from: Mapping[str, str]
    artifacts: Mapping[str, Sequence[Artifact]]
    base_config: JsonObject
    model_id: str  # id of the model that will be the result


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Columns(_Value):
    """Columns of a job that its worker reports."""

    progress: JobProgress
    device_seconds: DeviceSeconds
    execution_seconds: Seconds

    def values(self) -> JsonObject:
        return {name: getattr(self, name) for name in type(self).model_fields}


class AttemptMeasurements(_Value):
    """Columns of an attempt, limited to the measured ones."""

    start_step: Step | None = None
    tokens: Count | None = None
    train_seconds: Seconds | None = None
    overhead_seconds: Seconds | None = None

    def values(self) -> JsonObject:
        return self.model_dump(exclude_none=True)


class Batch(_Value):
    """Events of the trainer, of which `before` came earlier."""

    before: Step
    events: NewEvents
    columns: Columns
    measured: AttemptMeasurements


class SavedCheckpoint(_Value):
    """Checkpoint whose bytes are stored. `keep`: so many stay, and the best one."""

    id: str = Field(pattern=r"^ftckpt_[0-9A-Za-z_-]{1,64}$")
    saved: CheckpointSaved
    keep: int = Field(ge=1, le=MAX_STEPS)


class Ending(_Value):
    """Outcome of an attempt without a result. `cap`: the budget cap that was reached; `desired`:
    the desired state last read by its worker.
    """

    verdict: Verdict
    failure: JobFailure | None
    cap: Annotated[str, Field(pattern=r"^[a-z_]{1,40}( [^\n]{0,200})?$")] | None
    desired: Desired
    has_trained: bool
    # Last part of a failed trainer's log.
    trainer_log: Annotated[str, AfterValidator(lambda text: text[-MAX_LOG:])]
    columns: Columns

    @model_validator(mode="after")
    def _give_a_reason(self) -> Self:
        if self.verdict is Verdict.FAILED and self.failure is None:
            raise ValueError("failure: a failed job has a reason")
        return self


class UploadedFile(NamedTuple):
    name: Annotated[str, Field(max_length=keys.MAX_NAME)]
    stored: Annotated[Stored, AfterValidator(_check_stored)]


class TrainingResult(_Value):
    """Trained model whose files are stored below the prefix of its attempt."""

    files: list[UploadedFile] = Field(max_length=MAX_FILES)
    config: JsonObject
    trained_tokens: Count
    columns: Columns
    measured: AttemptMeasurements
    actual: Actual | None
