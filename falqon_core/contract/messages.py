"""What the trainer tells its supervisor: typed JSON lines on one file descriptor, and the exit
code.

One message is one line of UTF-8 JSON whose `type` names the class. Order is the order of events;
nothing is ever resent. There is no channel back: a request to stop arrives as SIGTERM, answered
with a checkpoint and `ExitCode.STOPPED`.
"""

import signal
from enum import IntEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class ExitCode(IntEnum):
    DONE = 0
    USER_ERROR = 65  # EX_DATAERR: bad configuration, data or model; never retried
    INTERNAL = 70  # EX_SOFTWARE: a fault of ours or of the machine; may be retried
    OUT_OF_MEMORY = 71  # EX_OSERR
    # EX_OSFILE: the exported files are not the trained model; never retried
    CERTIFICATE_MISMATCH = 72
    STOPPED = 75  # EX_TEMPFAIL: asked to stop; the same command continues


# how a process ends whose chat template cannot be interrupted (data.bounded)
ENDLESS_TEMPLATE = -int(signal.SIGPROF)


class Message(BaseModel):
    """Numbers are finite: JSON has no others, and a loss that is not stops the training before it
    is told.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Started(Message):
    type: Literal["started"] = "started"
    total_steps: int
    start_step: int = Field(
        description="0, or the step of the checkpoint that training continues from"
    )
    num_records: int
    num_examples: int = Field(
        description="what a step counts: records, and the sequences that long texts become"
    )
    num_truncated_records: int
    num_validation_records: int = 0
    tokens_per_epoch: int
    device: str
    num_trainable_parameters: int
    microbatch_tokens: int
    activation_checkpointing: bool


class StepMetrics(Message):
    """Sent once per optimizer step. `tokens` are real (unpadded) tokens; seconds are monotonic and
    count this attempt only.

    Supervised training has a loss per label and a token accuracy; method "dpo" has a loss per pair,
    the share of pairs whose chosen answer has the greater reward, and the mean difference of the
    two rewards.
    """

    type: Literal["step"] = "step"
    step: int
    total_steps: int
    epoch: float
    train_loss: float
    train_mean_token_accuracy: float | None = None
    train_reward_accuracy: float | None = None
    train_reward_margin: float | None = None
    learning_rate: float
    grad_norm: float
    tokens: int
    trained_tokens: int = Field(
        description="all tokens of all steps up to this one, earlier attempts included"
    )
    tokens_per_second: float
    elapsed_seconds: float
    codes_changed: float = Field(
        description="share of the quantized values that this step changed, 0 to 1"
    )
    memory_bytes: int = Field(
        description="most bytes held so far: of the process on a CPU, of the device's allocator "
        "on a GPU"
    )
    mfu: float | None = Field(
        None,
        description="model FLOP/s over the peak of the device; null when the peak is not known",
    )
    cpu_utilization: float | None = Field(
        None, description="percent of the machine's cores that the process kept busy in this step"
    )
    gpu_utilization: float | None = Field(None, description="percent; null on a CPU")
    gpu_temperature: float | None = Field(None, description="degrees Celsius; null on a CPU")


class Evaluated(Message):
    type: Literal["evaluated"] = "evaluated"
    step: int
    valid_loss: float
    valid_mean_token_accuracy: float | None = None
    valid_reward_accuracy: float | None = None
    valid_reward_margin: float | None = None


class Sample(BaseModel):
    """A validation prompt with what the model says now and what the record says. Texts are cut to
    bounded lengths.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    completion: str
    expected: str


class Sampled(Message):
    """Greedy completions, sent with an evaluation."""

    type: Literal["sampled"] = "sampled"
    step: int
    samples: list[Sample]


class CheckpointSaved(Message):
    """The folder is complete, hashed and renamed into place when this is sent."""

    type: Literal["checkpoint"] = "checkpoint"
    step: int
    path: str
    bytes: int
    manifest_sha256: str
    metrics: dict[str, float]


class Merged(Message):
    """The model as it is served: with its adapters merged and rounded to FP8. Both losses are of
    the step whose model is exported, which early stopping chooses.
    """

    type: Literal["merged"] = "merged"
    step: int
    valid_loss: float
    valid_loss_as_served: float


class Exported(Message):
    type: Literal["exported"] = "exported"
    path: str


class Log(Message):
    type: Literal["log"] = "log"
    level: Literal["info", "warn", "error"] = "info"
    text: str


class RecordsWritten(Message):
    """How far a table has become JSON lines. What was written by then can be read."""

    type: Literal["records_written"] = "records_written"
    num_records: int
    fraction: float = Field(description="how much of the table is read, 0 to 1")
    ignored_columns: list[str] = Field([], description="columns that are no field of a record")


class Failed(Message):
    type: Literal["failed"] = "failed"
    code: str
    message: str
    param: str | None = None


class Finished(Message):
    type: Literal["finished"] = "finished"
    steps: int
    trained_tokens: int
    elapsed_seconds: float
    early_stop: str | None = Field(None, description="why it ended before its last step")
    best_step: int | None = Field(
        None,
        description="step of the lowest validation loss; with early stopping the exported model "
        "is this one",
    )


AnyMessage = Annotated[
    Started
    | StepMetrics
    | Evaluated
    | Sampled
    | CheckpointSaved
    | Merged
    | Exported
    | Log
    | RecordsWritten
    | Failed
    | Finished,
    Field(discriminator="type"),
]
_adapter: TypeAdapter[AnyMessage] = TypeAdapter(AnyMessage)


def encode(message: Message) -> bytes:
    """Write one line, newline included."""
    return message.model_dump_json().encode() + b"\n"


def decode(line: bytes) -> AnyMessage:
    """Read a line. Raises `pydantic.ValidationError` when it is not one of ours."""
    return _adapter.validate_json(line)
