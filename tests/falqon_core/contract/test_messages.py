import pytest
from pydantic import ValidationError

from falqon_core.contract.messages import (
    CheckpointSaved,
    Evaluated,
    ExitCode,
    Exported,
    Failed,
    Finished,
    Log,
    Merged,
    RangeTested,
    RecordsWritten,
    Sample,
    Sampled,
    Started,
    StepMetrics,
    StoppedEarly,
    TrainerMessage,
    UntouchedEvaluated,
    decode,
    encode,
)  # fmt: skip
from falqon_core.contract.range_test import RangePoint, RangeTest

STEP = StepMetrics(
    step=3, total_steps=10, epoch=0.5, train_loss=1.25, train_mean_token_accuracy=0.5,
    learning_rate=1e-3, grad_norm=0.75, tokens=800, trained_tokens=2400, tokens_per_second=321.5,
    elapsed_seconds=7.5, codes_changed=0.125, memory_bytes=2**30, mfu=0.5, gpu_utilization=99,
    gpu_temperature=71,
)  # fmt: skip
MESSAGES: list[TrainerMessage] = [
    Started(
        total_steps=10,
        start_step=0,
        num_records=4,
        num_examples=4,
        num_truncated_records=1,
        tokens_per_epoch=99,
        device="cpu",
        num_trainable_parameters=5,
        microbatch_tokens=4096,
        activation_checkpointing=False,
    ),
    STEP,
    Evaluated(step=3, valid_loss=1.5, valid_mean_token_accuracy=0.25),
    UntouchedEvaluated(valid_loss=0.9),
    Sampled(step=3, samples=[Sample(prompt="two\nlines", completion="ünïcode 🙂", expected="")]),
    CheckpointSaved(
        step=3, path="/out/step-3", bytes=10, manifest_sha256="0" * 64, metrics={"train_loss": 1.25}
    ),
    StoppedEarly(step=3, reason="2 evaluations"),
    Merged(step=3, valid_loss=1.25, valid_loss_as_served=1.26),
    Merged(step=3, weights="nvfp4", valid_loss=1.25, valid_loss_as_served=1.25),
    Merged(step=3, valid_loss=1.25, valid_loss_fp8_weights=1.26, valid_loss_as_served=1.29),
    Exported(step=3, path="/out/model"),
    RangeTested(
        result=RangeTest(
            points=[RangePoint(learning_rate=1e-3, loss_change=-0.5)],
            outcome="found",
            proposal=1e-4,
        )
    ),
    RecordsWritten(num_records=3, fraction=0.5, ignored_columns=["id"]),
    Log(text="two\nlines, ünïcode 🙂", level="warn"),
    Failed(code="out_of_memory", message="too large", param=None),
    Finished(
        steps=10, trained_tokens=8000, elapsed_seconds=25.0, early_stop="2 evaluations", best_step=8
    ),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_round_trip_in_one_line(message: TrainerMessage) -> None:
    line = encode(message)

    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode(line) == message


def test_every_kind_of_message_has_an_example() -> None:
    assert {type(message) for message in MESSAGES} == set(TrainerMessage.__subclasses__())


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"loading weights...\n",
        b"{}",
        b'{"type":"other"}',
        b'{"type":"exported"}',
        b'{"type":"exported","path":"a","more":1}',
    ],
)
def test_a_foreign_line_is_no_message(line: bytes) -> None:
    with pytest.raises(ValidationError):
        decode(line)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_are_finite(value: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        Evaluated(step=1, valid_loss=value, valid_mean_token_accuracy=0.5)


def test_exit_codes_are_the_documented_ones() -> None:
    documented = {
        "DONE": 0,
        "USER_ERROR": 65,
        "INTERNAL": 70,
        "OUT_OF_MEMORY": 71,
        "CERTIFICATE_MISMATCH": 72,
        "STOPPED": 75,
    }
    assert {code.name: code.value for code in ExitCode} == documented
