import pytest

from falqon_core.contract.messages import (
    Failed,
    Finished,
    Sample,
    Sampled,
    Started,
    StepMetrics,
    UntouchedEvaluated,
)
from falqon_core.train.report import PlainLog, describe

STEP = StepMetrics(
    step=3, total_steps=10, epoch=0.5, train_loss=1.25, train_mean_token_accuracy=0.5,
    learning_rate=1e-3, grad_norm=0.75, tokens=800,
    trained_tokens=2400, tokens_per_second=3210.0, elapsed_seconds=7.5, codes_changed=0.0125,
    memory_bytes=3 * 2**29,
)  # fmt: skip


def test_a_step_is_one_line_and_leaves_out_what_is_not_known() -> None:
    assert describe(STEP) == (
        "step 3/10  loss 1.2500  accuracy 0.500  lr 1.00e-03  grad norm 0.750  codes changed 1.25% "
        " 3,210 tokens/s  1.50 GiB"
    )
    assert "3,210 tokens/s (25% of peak)" in describe(STEP.model_copy(update={"mfu": 0.25}))


def test_every_sample_is_reported_on_one_line() -> None:
    sample = Sample(prompt="How\nmany?", completion="Six.", expected="Seven.")
    assert (
        describe(Sampled(step=3, samples=[sample, sample])).splitlines()
        == ["step 3: asked 'How\\nmany?', answers 'Six.', expected 'Seven.'"] * 2
    )


def test_the_report_shows_memory_decisions_and_the_end_reason() -> None:
    started = Started(
        total_steps=9, start_step=0, num_records=4, num_examples=4, num_truncated_records=0,
        tokens_per_epoch=99, device="cpu",
        num_trainable_parameters=5, microbatch_tokens=4096, activation_checkpointing=True,
    )  # fmt: skip
    assert describe(started).endswith("on cpu, 4,096 tokens a pass, activations computed twice")
    finished = Finished(
        steps=6,
        trained_tokens=600,
        elapsed_seconds=2.0,
        early_stop="2 evaluations without a lower loss",
        best_step=4,
    )
    assert describe(finished) == (
        "finished: 6 steps, 600 tokens in 2 s, "
        "stopped early after 2 evaluations without a lower loss"
    )


def test_the_loss_before_training_is_reported() -> None:
    assert describe(UntouchedEvaluated(valid_loss=0.9)) == "before training: validation loss 0.9000"


def test_a_log_without_permission_for_data_quotes_none(capsys: pytest.CaptureFixture[str]) -> None:
    quoting = [
        Sampled(
            step=3, samples=[Sample(prompt="private", completion="private", expected="private")]
        )
    ]
    port = PlainLog(discreet=True)
    for message in (
        STEP,
        *quoting,
        Failed(code="invalid_training_file", message="line 3: private"),
    ):
        port(message)
    output = capsys.readouterr().out
    assert "step 3/10" in output
    assert "private" not in output
