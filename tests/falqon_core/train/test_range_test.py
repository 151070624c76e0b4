from pathlib import Path
from typing import Any

import pytest

from falqon_core.contract.errors import LossNotFinite
from falqon_core.contract.messages import (
    ExitCode,
    Finished,
    Log,
    RangeTested,
    Started,
    StepMetrics,
    TrainerMessage,
    UntouchedEvaluated,
)
from falqon_core.contract.range_test import NUM_STEPS, SPAN, RangeTest, rate_of_step
from falqon_core.methods import METHOD_CLASSES
from falqon_core.train import progress_counter
from falqon_core.train.range_test import run_range_test
from tests.falqon_core.train.trainings import bytes_of, config_of, of, train

RECIPE = {"rank": 8, "max_seq_length": 64, "batch_size": 8, "find_rate": True}
# what methods need of their own on matrices of 40 and 56
SMALL: dict[str, dict[str, Any]] = {"qa_lora": {"group_size": 8}, "ir_lora": {"rank": 4}}


def result_of(messages: list[TrainerMessage]) -> RangeTest:
    (tested,) = of(RangeTested, messages)
    result: RangeTest = tested.result
    return result


@pytest.mark.parametrize("method", sorted(METHOD_CLASSES))
def test_a_range_test_reports_a_curve_and_leaves_no_file(
    method: str, tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    recipe = RECIPE | {"method": method} | SMALL.get(method, {})
    config = config_of(tiny_folder, train_file, recipe | {"validation_fraction": 0.1})
    code, messages = train(config, tmp_path / "out")
    assert code == ExitCode.DONE
    (started,) = of(Started, messages)
    assert started.total_steps == NUM_STEPS
    assert of(UntouchedEvaluated, messages) == [], "the model is not kept"
    steps = of(StepMetrics, messages)
    assert [type(message) for message in messages[-2:]] == [RangeTested, Finished]
    middle = config.recipe.automatic_rate().value
    assert steps[0].learning_rate == pytest.approx(middle / SPAN)
    result = result_of(messages)
    rates = [point.learning_rate for point in result.points]
    assert rates == [step.learning_rate for step in steps[:-1]], "a loss shows the step before it"
    assert abs(result.points[0].loss_change) < 0.02, "the lowest rate has changed little"
    assert min(point.loss_change for point in result.points) < 0
    assert bytes_of(tmp_path / "out") == {}


def test_reading_the_batches_before_the_first_step_reports_progress(
    tiny_folder: Path, train_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_counter, "REPORT_SECONDS", 0.0)
    _, messages = train(config_of(tiny_folder, train_file, RECIPE), tmp_path / "out", 1)
    texts = [message.text for message in of(Log, messages)]
    assert len(texts) == NUM_STEPS
    assert texts[-1] == f"range test: {NUM_STEPS} of {NUM_STEPS} batches are read"


def metrics_of(step: int, loss: float) -> StepMetrics:
    zeros = dict.fromkeys(("epoch", "grad_norm", "tokens_per_second", "codes_changed"), 0.0)
    counts = dict.fromkeys(("tokens", "trained_tokens", "memory_bytes", "elapsed_seconds"), 0)
    return StepMetrics(
        step=step,
        total_steps=NUM_STEPS,
        train_loss=loss,
        learning_rate=rate_of_step(1e-3, step - 1),
        **zeros,
        **counts,
    )


@pytest.mark.parametrize("last_loss", [9.0, None])
def test_a_range_test_ends_where_the_loss_diverges(last_loss: float | None) -> None:
    """At step 12, by a loss that is high or that is not finite."""
    steps: list[StepMetrics] = []

    def step() -> StepMetrics:
        number = len(steps) + 1
        if number == 12 and last_loss is None:
            raise LossNotFinite("step 12: the loss (inf) is not finite", "learning_rate")
        return metrics_of(number, 9.0 if number == 12 else 2.0 - 0.05 * number)

    result = run_range_test([2.0] * NUM_STEPS, step, lambda: False, steps.append)
    assert result is not None
    assert len(steps) == (11 if last_loss is None else 12)
    assert len(result.points) == len(steps) - 1
    assert result.outcome == "found"


def test_a_range_test_around_a_tiny_rate_proposes_none(
    tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    config = config_of(tiny_folder, train_file, RECIPE | {"learning_rate": 1e-9})
    _, messages = train(config, tmp_path / "out")
    result = result_of(messages)
    assert (result.outcome, result.proposal) == ("flat", None)
    noise = max(abs(point.loss_change) for point in result.points)
    assert noise < 1e-3, "the same batches, so harder ones are no rise"


def test_a_stopped_range_test_begins_again(
    tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    config = config_of(tiny_folder, train_file, RECIPE)
    code, messages = train(config, tmp_path / "out", stop_after=3)
    assert code == ExitCode.STOPPED
    assert of(RangeTested, messages) == []
    code, again = train(config, tmp_path / "out")
    assert code == ExitCode.DONE
    losses = [step.train_loss for step in of(StepMetrics, again)]
    assert losses[:3] == [step.train_loss for step in of(StepMetrics, messages)]


def test_preferences_have_a_range_test(
    tiny_folder: Path, preference_file: Path, tmp_path: Path
) -> None:
    recipe = RECIPE | {"objective": "dpo", "validation_fraction": 0.2}
    config = config_of(tiny_folder, preference_file, recipe)
    code, messages = train(config, tmp_path / "out")
    assert code == ExitCode.DONE
    assert result_of(messages).points[0].loss_change == pytest.approx(0, abs=0.01)
