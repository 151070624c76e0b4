"""Messages of the trainer to its supervisor: typed JSON lines on one file descriptor, and the exit
code.

One message is one line of UTF-8 JSON whose `type` names the class. Order is the order of events;
nothing is ever resent. There is no channel back: a request to stop arrives as SIGTERM, answered
with a checkpoint and `ExitCode.STOPPED`.
"""

import signal
from enum import IntEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from falqon_core.contract.block_weights import Weights, title_of
from falqon_core.contract.figures import Count, Measure, Name, Seconds, Step, Text, TotalSteps
from falqon_core.contract.range_test import RangeTest


class ExitCode(IntEnum):
    DONE = 0
    USER_ERROR = 65  # EX_DATAERR: bad configuration, data or model; never retried
    INTERNAL = 70  # EX_SOFTWARE: a fault of ours or of the machine; may be retried
    OUT_OF_MEMORY = 71  # EX_OSERR
    # EX_OSFILE: the exported files are not the trained model; never retried
    CERTIFICATE_MISMATCH = 72
    STOPPED = 75  # EX_TEMPFAIL: asked to stop; the same command continues


MAX_SAMPLES = 1000  # Samples of one evaluation.
MAX_METRICS = 100
MAX_PATH = 4096
# Exit code of a process whose chat template cannot be interrupted (data.bounded).
ENDLESS_TEMPLATE = -int(signal.SIGPROF)


class TrainerMessage(BaseModel):
    """Numbers are finite and bounded: JSON has no others, and a loss that is not finite stops the
    training before it is sent. A line that breaks a bound is no message.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Started(TrainerMessage):
    type: Literal["started"] = "started"
    total_steps: Step
    start_step: Step = Field(
        description="0, or the step of the checkpoint that training continues from"
    )
    num_records: Count
    num_examples: Count = Field(
        description="what a step counts: records, and the sequences that long texts become"
    )
    num_truncated_records: Count
    num_left_out_records: Count = Field(
        0, description="records of which nothing to learn was left within the longest sequence"
    )
    num_validation_records: Count = 0
    tokens_per_epoch: Count
    device: Name
    num_trainable_parameters: Count
    microbatch_tokens: Count
    activation_checkpointing: bool
    best_step: Step | None = Field(
        None, description="step of the lowest validation loss so far, of the checkpoint"
    )
    best_valid_loss: Measure | None = None


class StepMetrics(TrainerMessage):
    """Sent once per optimizer step. `tokens` are real (unpadded) tokens; seconds are monotonic and
    count this attempt only.

    Supervised training has a loss per label and a token accuracy; method "dpo" has a loss per pair,
    the share of pairs whose chosen answer has the greater reward, and the mean difference of the
    two rewards.
    """

    type: Literal["step"] = "step"
    step: Step
    total_steps: TotalSteps
    epoch: Measure
    train_loss: Measure
    train_mean_token_accuracy: Measure | None = None
    train_reward_accuracy: Measure | None = None
    train_reward_margin: Measure | None = None
    learning_rate: Measure
    grad_norm: Measure
    tokens: Count
    trained_tokens: Count = Field(
        description="all tokens of all steps up to this one, earlier attempts included"
    )
    tokens_per_second: Measure
    elapsed_seconds: Seconds
    codes_changed: Measure = Field(
        description="share of the quantized values that this step changed, 0 to 1"
    )
    expert_load: Measure | None = Field(
        None,
        description="tokens of the most used expert over the mean of all, on average over layers; "
        "null without a mixture of experts",
    )
    unused_experts: Count | None = Field(
        None, description="experts, of all layers together, that no token of this step chose"
    )
    memory_bytes: Count = Field(
        description="most bytes held so far: of the process on a CPU, of the device's allocator "
        "on a GPU"
    )
    mfu: Measure | None = Field(
        None,
        description="model FLOP/s over the peak of the device; null when the peak is not known",
    )
    cpu_utilization: Measure | None = Field(
        None, description="percent of the machine's cores that the process kept busy in this step"
    )
    gpu_utilization: Measure | None = Field(None, description="percent; null on a CPU")
    gpu_temperature: Measure | None = Field(None, description="degrees Celsius; null on a CPU")


class Evaluated(TrainerMessage):
    type: Literal["evaluated"] = "evaluated"
    step: Step
    valid_loss: Measure
    valid_mean_token_accuracy: Measure | None = None
    valid_reward_accuracy: Measure | None = None
    valid_reward_margin: Measure | None = None


class UntouchedEvaluated(TrainerMessage):
    """The loss on the validation data before the first step. Every attempt sends it after
    `Started`: the first measures it, the others have it from the checkpoint.
    """

    type: Literal["untouched_evaluated"] = "untouched_evaluated"
    valid_loss: Measure


class Sample(BaseModel):
    """A validation prompt with what the model says now and what the record says. Texts are cut to
    bounded lengths.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Text
    completion: Text
    expected: Text


class Sampled(TrainerMessage):
    """Greedy completions, sent with an evaluation."""

    type: Literal["sampled"] = "sampled"
    step: Step
    samples: list[Sample] = Field(max_length=MAX_SAMPLES)


class CheckpointSaved(TrainerMessage):
    """The folder is complete, hashed and renamed into place when this is sent."""

    type: Literal["checkpoint"] = "checkpoint"
    step: Step
    path: str = Field(max_length=MAX_PATH)
    bytes: Count
    manifest_sha256: Name
    metrics: dict[Name, Measure] = Field(max_length=MAX_METRICS)


class StoppedEarly(TrainerMessage):
    """No step follows, although not all are done; the export does."""

    type: Literal["stopped_early"] = "stopped_early"
    step: Step
    reason: Text


class Merged(TrainerMessage):
    """The model as it is served: with its adapters merged. All losses are of the step whose model
    is exported.
    """

    type: Literal["merged"] = "merged"
    step: Step
    weights: Weights = "fp8"
    valid_loss: Measure
    valid_loss_fp8_weights: Measure | None = Field(
        None,
        description="its weights in FP8; null where the device rounds activations as well, and "
        "for weights in blocks",
    )
    valid_loss_as_served: Measure = Field(
        description="its weights and activations in FP8, as a card with FP8 serves it; weights in "
        "blocks with activations as they come"
    )

    @property
    def valid_loss_of_weights(self) -> float:
        """Return the loss of its weights, with activations rounded only if training did so too."""
        of_weights = self.valid_loss_fp8_weights
        return self.valid_loss_as_served if of_weights is None else of_weights


class Exported(TrainerMessage):
    type: Literal["exported"] = "exported"
    step: Step = Field(description="step whose model it is: of the lowest validation loss, or last")
    path: str = Field(max_length=MAX_PATH)


class RangeTested(TrainerMessage):
    """The result of a range test, which stands in the place of a model."""

    type: Literal["range_test"] = "range_test"
    result: RangeTest


class Log(TrainerMessage):
    type: Literal["log"] = "log"
    level: Literal["info", "warn", "error"] = "info"
    text: Text


class RecordsWritten(TrainerMessage):
    """How far a table has become JSON lines. What was written by then can be read."""

    type: Literal["records_written"] = "records_written"
    num_records: Count
    fraction: Measure = Field(description="how much of the table is read, 0 to 1")
    ignored_columns: list[str] = Field([], description="columns that are no field of a record")


class Failed(TrainerMessage):
    type: Literal["failed"] = "failed"
    code: Name
    message: Text
    param: Name | None = None


class Finished(TrainerMessage):
    type: Literal["finished"] = "finished"
    steps: Step
    trained_tokens: Count
    elapsed_seconds: Seconds
    early_stop: Text | None = Field(None, description="why it ended before its last step")
    best_step: Step | None = Field(
        None,
        description="step of the lowest validation loss, whose model is the exported one",
    )


AnyMessage = Annotated[
    Started
    | StepMetrics
    | Evaluated
    | UntouchedEvaluated
    | Sampled
    | CheckpointSaved
    | StoppedEarly
    | Merged
    | Exported
    | RangeTested
    | Log
    | RecordsWritten
    | Failed
    | Finished,
    Field(discriminator="type"),
]
_adapter: TypeAdapter[AnyMessage] = TypeAdapter(AnyMessage)


def describe_merged(message: Merged) -> str:
    """Return the line that names its losses."""
    if message.weights != "fp8":
        title = title_of(message.weights)
        return (
            f"Merged in {title}, as it trained: validation loss {message.valid_loss_as_served:.4f}"
        )
    weights = message.valid_loss_fp8_weights
    text = f"Merged to FP8: validation loss {message.valid_loss:.4f} as trained"
    if weights is not None:
        text += f", {weights:.4f} with weights in FP8"
    return f"{text}, {message.valid_loss_as_served:.4f} with weights and activations in FP8"


def encode(message: TrainerMessage) -> bytes:
    """Write one line, newline included."""
    return message.model_dump_json().encode() + b"\n"


def decode(line: bytes) -> AnyMessage:
    """Read a line. Raises `pydantic.ValidationError` when it is not one of ours."""
    return _adapter.validate_json(line)
