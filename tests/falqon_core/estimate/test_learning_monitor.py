"""Findings on trainings with made-up losses, and the steps at which they are told."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from falqon_core.contract.config import Recipe
from falqon_core.contract.health import HealthFinding
from falqon_core.contract.messages import (
    Evaluated,
    Merged,
    Started,
    StepMetrics,
    UntouchedEvaluated,
)
from falqon_core.estimate.learning_monitor import LearningMonitor

TOTAL = 200
Loss = Callable[[int], float]


def started(start_step: int = 0, **fields: Any) -> Started:
    usual: dict[str, Any] = {"num_examples": 100, "num_truncated_records": 0}
    return Started(
        total_steps=TOTAL, start_step=start_step, num_records=100, tokens_per_epoch=10,
        device="cpu", num_trainable_parameters=1, microbatch_tokens=64,
        activation_checkpointing=False, **usual | fields,
    )  # fmt: skip


def step(number: int, loss: float, total: int = TOTAL) -> StepMetrics:
    return StepMetrics(
        step=number, total_steps=total, epoch=1.0, train_loss=loss, learning_rate=1e-3,
        grad_norm=1.0, tokens=10, trained_tokens=10 * number, tokens_per_second=1.0,
        elapsed_seconds=float(number), codes_changed=0.0, memory_bytes=1,
    )  # fmt: skip


def watch(
    monitor: LearningMonitor, loss: Loss, first: int = 1, last: int = TOTAL, total: int = TOTAL
) -> list[str]:
    """Return the changes as `code` and `-code`, with the step at which each was told."""
    told = []
    for number in range(first, last + 1):
        monitor.step(step(number, loss(number), total))
        told += [
            f"{'-' * change.is_over}{change.finding.code}@{number}"
            for change in monitor.take_changes()
        ]
    return told


def noisy(loss: Loss, deviation: float = 0.2, seed: int = 0) -> Loss:
    random_ = random.Random(seed)
    return lambda number: loss(number) + random_.gauss(0, deviation)


@pytest.mark.parametrize("seed", range(20))
def test_a_training_that_learns_is_healthy(seed: int) -> None:
    assert watch(LearningMonitor(None), noisy(lambda n: 1 + 1.5 * 0.98**n, seed=seed)) == []
    rarely = LearningMonitor(None)
    assert watch(rarely, noisy(lambda n: 0.001 + 2 * 0.9**n, 0.0005, seed)) == []


def test_a_training_without_a_fall_is_told_once_and_until_it_falls() -> None:
    told = watch(LearningMonitor(None), noisy(lambda n: 2.0 if n < 120 else 1.0))
    assert [each.partition("@")[0] for each in told] == ["not_learning", "-not_learning"]
    (begin, end) = (int(each.partition("@")[2]) for each in told)
    assert begin == 60
    assert 120 < end <= 160


@pytest.mark.parametrize(
    ("loss", "before"),
    [(lambda n: 1 + n / 50, 1.2), (lambda n: 2 * 0.97**n if n < 120 else 3.0, 0.07)],
    ids=["from the start", "after a fall"],
)
def test_a_rising_loss_diverges(loss: Loss, before: float) -> None:
    monitor = LearningMonitor(None)
    (told,) = watch(monitor, noisy(loss, 0.02))
    assert told.startswith("diverging@")
    (finding,) = monitor.findings
    assert finding.before == pytest.approx(before, abs=0.05)
    assert finding.now > 2.9
    assert finding.is_failing


@pytest.mark.parametrize(("last", "is_failing"), [(0.9, False), (1.995, True), (2.5, True)])
def test_a_training_that_ends_below_its_beginning_has_not_failed(
    last: float, is_failing: bool
) -> None:
    """Even if its loss has risen since; a rise that leaves nothing of the fall is a failure."""
    monitor = LearningMonitor(None)
    told = watch(monitor, noisy(lambda n: 2.0 if n <= 20 else 0.5 if n <= 150 else last, 0.02))
    assert [each.partition("@")[0] for each in told] == ["diverging"]
    (finding,) = monitor.findings
    assert (finding.before, finding.now) == pytest.approx((0.5, last), abs=0.05)
    assert finding.is_failing == is_failing


def test_an_ended_job_is_not_to_be_cancelled() -> None:
    finding = HealthFinding(code="diverging", step=100, before=2.0, now=3.0)
    assert finding.advise(has_ended=False) == "cancel it and try a third of the learning rate"
    assert finding.advise(has_ended=True) == "train it again at a third of the learning rate"
    monitor = LearningMonitor(None)
    for number in range(1, 10):
        monitor.step(step(number, 2.0 * number, total=9))
    (change,) = monitor.take_changes()
    assert change.message.endswith("; train it again at a third of the learning rate")


@pytest.mark.parametrize(
    ("losses", "codes"),
    [
        ([2.0 * number for number in range(1, 10)], ["diverging"]),
        ([2.0, 2.1, 1.9, 2.0, 2.0, 2.1], ["not_learning"]),
        ([2.0, 3.0, 4.0, 5.0], ["not_learning"]),
        ([5.0, 4.0, 3.0, 2.0], []),
        ([2.0, 1.5, 1.0, 0.8, 0.7, 0.65, 0.6], []),
        ([2.0, 3.0, 4.0], []),
    ],
)
def test_a_short_training_is_judged_at_its_end(losses: list[float], codes: list[str]) -> None:
    total = len(losses)
    told = watch(LearningMonitor(None), lambda n: losses[n - 1], last=total, total=total)
    assert told == [f"{code}@{total}" for code in codes]


def test_a_short_training_is_judged_in_its_second_attempt() -> None:
    first = LearningMonitor(None)
    assert watch(first, lambda n: 2.0 * n, last=5, total=9) == []
    second = LearningMonitor(None, first.findings, first.first_loss)
    second.started(started(start_step=5))
    assert watch(second, lambda n: 2.0 * n, first=6, last=9, total=9) == ["diverging@9"]


def test_another_attempt_goes_on_where_the_first_ended() -> None:
    first = LearningMonitor(None)
    watch(first, noisy(lambda n: 2.0), last=100)
    assert [each.code for each in first.findings] == ["not_learning"]
    second = LearningMonitor(None, first.findings, first.first_loss)
    second.started(started(start_step=80))
    assert watch(second, noisy(lambda n: 2.0), first=81) == [], "it was told already"
    assert [each.code for each in second.findings] == ["not_learning"]
    third = LearningMonitor(None, first.findings, first.first_loss)
    third.started(started(start_step=80))
    assert watch(third, noisy(lambda n: 1.0), first=81) == ["-not_learning@140"]


def evaluate(monitor: LearningMonitor, losses: list[float], first: int = 1) -> list[str]:
    told = []
    for number, loss in enumerate(losses, first):
        monitor.evaluated(Evaluated(step=10 * number, valid_loss=loss))
        told += [f"{each.finding.code}@{10 * number}" for each in monitor.take_changes()]
    return told


def test_overfitting_names_the_best_step() -> None:
    monitor = LearningMonitor(None)
    assert evaluate(monitor, [1.0, 0.8, 0.81, 0.79, 0.9, 0.95, 0.99]) == ["overfitting@60"]
    (finding,) = monitor.findings
    assert (finding.step, finding.before, finding.now) == (40, 0.79, 0.99)
    assert "since step 40" in finding.message
    assert "the model of step 40" in finding.advise(has_ended=True)
    again = LearningMonitor(None, monitor.findings)
    again.started(started(start_step=70, best_step=40, best_valid_loss=0.79))
    assert evaluate(again, [1.0, 1.1, 1.2], first=8) == [], "the earlier attempt told it"
    assert evaluate(again, [0.5], first=11) == ["overfitting@110"], "it is over"
    assert again.findings == []


@pytest.mark.parametrize(
    ("untouched", "best_before", "losses", "expected"),
    [
        (0.9, None, [1.4, 1.5, 1.6], (10, 0.9, 1.4)),
        (0.9, None, [0.9], (10, 0.9, 0.9)),
        (0.9, None, [1.4, 0.89, 1.6], None),
        (0.9, 0.8, [1.4], None),
        (None, None, [1.4], None),
        (0.9, None, [], None),
    ],
)
def test_a_model_no_better_than_its_base_fails_at_the_end(
    untouched: float | None,
    best_before: float | None,
    losses: list[float],
    expected: tuple[int, float, float] | None,
) -> None:
    monitor = LearningMonitor(None)
    monitor.started(started(best_step=best_before and 5, best_valid_loss=best_before))
    if untouched is not None:
        monitor.untouched_evaluated(UntouchedEvaluated(valid_loss=untouched))
    evaluate(monitor, losses)
    assert not any(each.is_failing for each in monitor.findings), "it may still get better"
    monitor.finished()
    failing = [(each.step, each.before, each.now) for each in monitor.findings if each.is_failing]
    assert failing == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("weights", "as_served", "now"), [(0.91, 0.92, 0.91), (0.89, 0.92, None), (None, 0.92, 0.92)]
)
def test_the_merged_model_is_what_is_compared_with_the_base(
    weights: float | None, as_served: float, now: float | None
) -> None:
    monitor = LearningMonitor(None)
    monitor.untouched_evaluated(UntouchedEvaluated(valid_loss=0.9))
    evaluate(monitor, [0.88])
    figures = {"valid_loss_fp8_weights": weights, "valid_loss_as_served": as_served}
    monitor.merged(Merged(step=10, valid_loss=0.88, **figures))
    monitor.finished()
    assert [each.now for each in monitor.findings] == ([now] if now else [])


@pytest.mark.parametrize(("untouched", "is_failing"), [(0.9, False), (0.81, True), (None, True)])
def test_a_flat_training_loss_fails_no_model_that_is_clearly_better_than_its_base(
    untouched: float | None, is_failing: bool
) -> None:
    monitor = LearningMonitor(None)
    watch(monitor, lambda _: 1.0)
    if untouched is not None:
        monitor.untouched_evaluated(UntouchedEvaluated(valid_loss=untouched))
    evaluate(monitor, [0.8])
    monitor.finished()
    (finding,) = monitor.findings
    assert (finding.code, finding.is_failing) == ("not_learning", is_failing)


def test_overfitting_in_a_later_attempt_names_the_best_step_of_all() -> None:
    monitor = LearningMonitor(None)
    monitor.started(started(start_step=150, best_step=100, best_valid_loss=0.8))
    assert evaluate(monitor, [0.9, 0.85, 0.95, 1.0], first=20) == ["overfitting@210"]
    (finding,) = monitor.findings
    assert (finding.step, finding.before, finding.now) == (100, 0.8, 1.0)


def test_cut_records_and_a_distant_rate_are_told_at_the_start() -> None:
    automatic = Recipe().resolved(100).learning_rate
    assert automatic is not None
    for rate, codes in ((automatic * 9, ["rate"]), (automatic / 9, ["rate"]), (automatic, [])):
        monitor = LearningMonitor(Recipe(learning_rate=rate).resolved(100))
        monitor.started(started())
        assert [each.code for each in monitor.findings] == codes
    monitor = LearningMonitor(Recipe().resolved(100, learning_rate_multiplier=9.0))
    monitor.started(started())
    (change,) = monitor.take_changes()
    assert change.message == (
        "Health: the learning rate 0.0045 is far from 0.0005, the automatic one of this method; "
        "leave it on auto unless it was chosen on this data"
    )
    monitor = LearningMonitor(Recipe().resolved(100))
    monitor.started(started(num_truncated_records=51))
    (change,) = monitor.take_changes()
    assert change.message == (
        "Health: 51 of 100 sequences are longer than max_seq_length and cut, or left out where "
        "nothing of the answer remains; raise max_seq_length or shorten the records"
    )
    monitor.started(started(num_truncated_records=50))
    assert monitor.findings == []


@pytest.mark.parametrize(("num_cut", "num_left_out", "is_most"), [(0, 60, True), (10, 40, False)])
def test_records_without_an_answer_count_among_the_cut(
    num_cut: int, num_left_out: int, is_most: bool
) -> None:
    monitor = LearningMonitor(None)
    figures = {"num_truncated_records": num_cut, "num_left_out_records": num_left_out}
    monitor.started(started(num_examples=100 - num_left_out, **figures))
    assert [(each.code, each.now, each.before) for each in monitor.findings] == (
        [("truncated", 60, 100)] if is_most else []
    )


def test_losses_of_any_size_are_compared() -> None:
    monitor = LearningMonitor(None)
    watch(monitor, lambda n: 1e99 * n / TOTAL)
    assert [each.code for each in monitor.findings] == ["diverging"]
    assert HealthFinding.model_validate(monitor.findings[0].model_dump()) == monitor.findings[0]
