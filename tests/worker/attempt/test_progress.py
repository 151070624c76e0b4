from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.models import Job
from app.models.job_progress import JobProgress
from falqon_core.contract.config import Recipe
from falqon_core.contract.messages import (
    Evaluated,
    Exported,
    Merged,
    Started,
    StepMetrics,
    UntouchedEvaluated,
)
from falqon_core.estimate.devices import DEVICES
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.estimate.estimate import Estimate, estimate
from falqon_core.estimate.prices import default_price
from tests.support.api import TINY_CONFIG
from tests.support.job_columns import cost, estimated
from worker.attempt.progress import AttemptProgress
from worker.machine.gpu import Machine

HOUR = 3600.0
H100 = default_price("h100")


def step(number: int, total: int = 100, seconds: float = 36.0) -> StepMetrics:
    return StepMetrics(
        step=number,
        total_steps=total,
        epoch=number / total,
        train_loss=1.0,
        train_mean_token_accuracy=0.5,
        learning_rate=1e-3,
        grad_norm=1.0,
        tokens=10,
        trained_tokens=10 * number,
        tokens_per_second=100.0,
        elapsed_seconds=number * seconds,
        codes_changed=0.25,
        memory_bytes=2**30,
        mfu=0.125,
    )


def job(
    progress: JobProgress | None = None,
    device_seconds: float = 0.0,
    estimate: Estimate | None = None,
) -> Job:
    return Job(
        progress=progress,
        device_seconds=device_seconds,
        execution_seconds=device_seconds,
        estimate=estimate,
    )


def test_cost_and_time_left_follow_the_measured_steps() -> None:
    progress = AttemptProgress(job(), Machine("h100", 2), lambda: HOUR / 2, H100)
    for number in range(1, 51):
        progress.step(step(number))
    now = progress.snapshot()
    assert (now.step, now.percent, now.eta_seconds, now.trained_tokens) == (50, 50.0, 1800.0, 500)
    assert now.eta_low_seconds <= now.eta_seconds <= now.eta_high_seconds
    assert now.cost.accrued == Decimal("2.6900")
    assert now.cost.projected == Decimal("5.3800")
    assert now.cost.projected_low <= Decimal("5.38") <= now.cost.projected_high
    assert progress.device_seconds == HOUR


def test_device_figures_of_a_step_reach_job_and_event() -> None:
    progress = AttemptProgress(job(), Machine("h100", 1), lambda: HOUR, H100)
    progress.step(step(1))
    now = progress.snapshot()
    event = progress.metrics(step(1))
    assert (now.memory_bytes, now.mfu, now.gpu_utilization, now.gpu_temperature) == (
        2**30,
        0.125,
        None,
        None,
    )
    assert (event["codes_changed"], event["memory_bytes"], event["mfu"]) == (0.25, 2**30, 0.125)
    assert "gpu_utilization" not in event, "an event leaves out what is not known"


def test_a_job_that_succeeded_early_is_complete() -> None:
    progress = AttemptProgress(job(), Machine("h100", 1), lambda: HOUR, H100)
    progress.step(step(40))
    ended = progress.snapshot(ended=True)
    assert (ended.step, ended.percent, ended.eta_seconds) == (40, 100.0, 0.0)


def test_an_attempt_that_only_exported_completes_the_job() -> None:
    before = JobProgress(
        step=40, total_steps=100, percent=40.0, stopped_early=True, cost=cost("1.2500")
    )
    columns = job(before, estimate=estimated(60, 100, 200))
    progress = AttemptProgress(columns, Machine("h100", 1), lambda: HOUR, H100)
    assert (progress.snapshot().percent, progress.snapshot().eta_seconds) == (40.0, 0.0)
    ended = progress.snapshot(ended=True)
    assert (ended.step, ended.percent, ended.eta_seconds) == (40, 100.0, 0.0)
    assert ended.cost.projected == ended.cost.accrued == Decimal("3.9400")


def test_the_cost_includes_earlier_attempts() -> None:
    before = JobProgress(step=40, cost=cost("1.2500"))
    progress = AttemptProgress(job(before, 700.0), Machine("h100", 1), lambda: HOUR, H100)
    progress.step(step(41))
    now = progress.snapshot()
    assert now.cost.accrued == Decimal("3.9400")
    assert now.eta_seconds is None, "one step of this attempt measures nothing"
    assert now.cost.projected is None
    assert progress.device_seconds == 700.0 + HOUR


def test_before_the_first_step_the_last_known_progress_stays() -> None:
    before = JobProgress(step=40, total_steps=100, eta_seconds=9.0, cost=cost("1"))
    now = AttemptProgress(job(before), Machine("h100", 1), lambda: 0.0, H100).snapshot()
    assert (now.step, now.eta_seconds, str(now.cost.accrued)) == (40, None, "1.0000"), (
        "the rate of an earlier attempt promises nothing"
    )


def test_a_device_without_a_price_costs_nothing_that_we_know() -> None:
    progress = AttemptProgress(job(), Machine("some-new-gpu", 1), lambda: HOUR, None)
    progress.step(step(1))
    assert progress.snapshot().cost is None
    assert progress.metrics(step(1))["cost_accrued"] is None


def test_until_steps_are_measured_the_estimate_speaks() -> None:
    recipe = Recipe().resolved(1000)
    first_estimate = estimate(
        ModelDimensions.from_config(TINY_CONFIG),
        recipe,
        num_records=1000,
        tokens_per_epoch=10**9,
        device=DEVICES["h100"],
    )
    progress = AttemptProgress(job(estimate=first_estimate), Machine("h100", 1), lambda: 0.0, H100)
    progress.step(step(25))
    now = progress.snapshot()
    assert now.eta_seconds == round(first_estimate.seconds.expected * 0.75, 1)
    assert now.eta_low_seconds < now.eta_seconds < now.eta_high_seconds
    assert now.cost.projected_low <= now.cost.projected <= now.cost.projected_high


def test_a_new_price_counts_from_then_on() -> None:
    now = 0.0
    progress = AttemptProgress(job(), Machine("h100", 2), lambda: now, H100)
    now = HOUR
    progress.reprice(H100.model_copy(update={"usd_per_device_hour": Decimal("1.00")}))
    assert str(progress.accrued) == "5.3800"
    now = 2 * HOUR
    assert str(progress.accrued) == "7.3800"
    assert progress.snapshot().cost.usd_per_device_hour == Decimal("1.00")


def test_small_amounts_are_not_rounded_away() -> None:
    """A CPU core costs less than a hundredth of a cent in the second after which it is charged
    again.
    """
    now = 0.0
    cpu = default_price("cpu")
    progress = AttemptProgress(job(), Machine("cpu", 1), lambda: now, cpu)
    for second in range(1, 3601):
        now = float(second)
        progress.reprice(cpu)
    assert str(progress.accrued) == "0.0450"


RECIPE = Recipe(batch_size=4, num_epochs=10, checkpoint_every=25).resolved(40)


class Trainer:
    """Its messages in the order and at the times in which they come."""

    def __init__(self, job: Job, *, total_steps: int = 100) -> None:
        self.now = 0.0
        self.elapsed = 0.0
        self.number = 0
        self.total_steps = total_steps
        self.progress = AttemptProgress(job, Machine("h100", 1), lambda: self.now, H100)

    def started(self, num_validation_records: int, **fields: Any) -> None:
        usual = {"start_step": 0}
        self.progress.started(
            Started(
                total_steps=self.total_steps,
                num_records=40,
                num_examples=40,
                num_truncated_records=0,
                tokens_per_epoch=10,
                device="cuda",
                num_trainable_parameters=1,
                microbatch_tokens=8,
                activation_checkpointing=False,
                num_validation_records=num_validation_records,
                **usual | fields,
            )
        )

    def wait(self, seconds: float) -> None:
        self.now = self.now + seconds
        self.elapsed = self.elapsed + seconds

    def step(self, seconds: float) -> None:
        self.wait(seconds)
        self.number += 1
        self.progress.step(
            step(self.number, self.total_steps).model_copy(update={"elapsed_seconds": self.elapsed})
        )

    def evaluate(self, seconds: float) -> None:
        self.wait(seconds)
        self.progress.evaluated(Evaluated(step=self.number, valid_loss=1.5))

    def checkpoint(self, seconds: float) -> None:
        self.wait(seconds)
        self.progress.checkpointed()


def test_figures_for_a_comparison_outlive_the_attempt() -> None:
    trainer = Trainer(Job(recipe=RECIPE))
    trainer.started(num_validation_records=8)
    for seconds in (9.0, 2.0, 3.0, 2.0):
        trainer.step(seconds)
    trainer.evaluate(1.0)
    assert trainer.progress.snapshot().valid_loss_as_served is None
    trainer.progress.merged(
        Merged(step=3, valid_loss=1.25, valid_loss_fp8_weights=1.3, valid_loss_as_served=1.375)
    )
    trainer.progress.exported(Exported(step=3, path="/out/model"))
    ended = trainer.progress.snapshot(ended=True)
    losses = (ended.valid_loss, ended.valid_loss_fp8_weights, ended.valid_loss_as_served)
    assert (*losses, ended.model_step, ended.seconds_per_step) == (1.25, 1.3, 1.375, 3, 2.0)
    assert ended.num_trainable_parameters is not None
    again = AttemptProgress(job(ended), Machine("h100", 1), lambda: 0.0, H100)
    assert again.snapshot().valid_loss_as_served == 1.375
    again.step(step(5))
    continued = again.snapshot()
    assert (continued.valid_loss, continued.seconds_per_step) == (1.25, None)
    assert continued.num_trainable_parameters == ended.num_trainable_parameters


def test_an_attempt_that_only_exports_again_compares_the_model_with_its_base() -> None:
    trainer = Trainer(Job(recipe=RECIPE, progress=JobProgress(step=40, total_steps=40)))
    trainer.started(8, start_step=40, best_step=20, best_valid_loss=1.4)
    trainer.progress.untouched_evaluated(UntouchedEvaluated(valid_loss=0.9))
    trainer.progress.finished()
    ended = trainer.progress.snapshot(ended=True)
    (finding,) = ended.health
    assert (finding.code, finding.step, finding.before, finding.now) == ("no_better", 20, 0.9, 1.4)
    assert ended.untouched_valid_loss == 0.9


def test_evaluations_and_checkpoints_still_to_come_are_counted() -> None:
    trainer = Trainer(Job(recipe=RECIPE))
    trainer.started(num_validation_records=8)
    for _ in range(5):
        trainer.step(1.0)
    now = trainer.progress.snapshot()
    assert now.eta_seconds == 95 + 10 * 1 + 4, (
        "ten evaluations, half as long as their records would train; four checkpoints, like a step"
    )
    for _ in range(5):
        trainer.step(1.0)
    trainer.evaluate(7.0)
    for _ in range(2):
        trainer.step(1.0)
    assert trainer.progress.snapshot().eta_seconds == 88 + 9 * 7 + 4, (
        "an evaluation as it was measured, and the steps are none the slower"
    )


def test_events_carry_the_bounds_of_the_eta() -> None:
    trainer = Trainer(Job())
    for _ in range(4):
        trainer.step(2.0)
    now = trainer.progress.snapshot()
    event = trainer.progress.metrics(step(4))
    for name in ("eta_seconds", "eta_low_seconds", "eta_high_seconds"):
        assert event[name] == getattr(now, name) is not None
    for name in ("accrued", "projected", "projected_low", "projected_high"):
        assert event[f"cost_{name}"] == str(getattr(now.cost, name))


def test_the_eta_includes_the_closing_work_where_it_is_known() -> None:
    trainer = Trainer(
        Job(recipe=RECIPE, estimate=estimated(1.0, 2.0, 3.0, overhead=50.0)), total_steps=10
    )
    trainer.now = 20.0
    trainer.started(num_validation_records=0)
    for _ in range(10):
        trainer.step(1.0)
    now = trainer.progress.snapshot()
    assert (now.eta_seconds, now.percent) == (30.0, 100.0)
    assert trainer.progress.snapshot(ended=True).eta_seconds == 0.0


def test_a_range_test_neither_evaluates_nor_saves_nor_exports() -> None:
    recipe = RECIPE.model_copy(update={"find_rate": True})
    job = Job(recipe=recipe, estimate=estimated(1.0, 2.0, 3.0, overhead=150.0))
    trainer = Trainer(job, total_steps=20)
    trainer.started(num_validation_records=8)
    for _ in range(5):
        trainer.step(4.0)
    assert trainer.progress.snapshot().eta_seconds == 60.0


def test_the_rate_is_this_attempts_own() -> None:
    before = JobProgress(step=10, total_steps=100, eta_seconds=9.0, cost=cost("1.0000"))
    trainer = Trainer(Job(progress=before))
    trainer.number = 10
    for _ in range(3):
        trainer.step(20.0)
    assert trainer.progress.snapshot().eta_seconds == 87 * 20.0


PARTS = st.lists(
    st.tuples(st.sampled_from(["step", "evaluate", "checkpoint"]), st.floats(0, 1000)), max_size=40
)
ESTIMATES = st.none() | st.just(estimated(10.0, 20.0, 30.0, overhead=5.0))


@given(PARTS, ESTIMATES, st.floats(0, 1000))
def test_bounds_hold_and_cost_only_grows(
    parts: list[tuple[str, float]], estimate: Estimate | None, staging: float
) -> None:
    trainer = Trainer(Job(recipe=RECIPE, estimate=estimate))
    trainer.now = staging
    trainer.started(num_validation_records=8)
    accrued = Decimal(0)
    for kind, seconds in parts:
        getattr(trainer, kind)(seconds)
        now = trainer.progress.snapshot()
        charged = now.cost
        assert charged.accrued >= accrued
        accrued = charged.accrued
        if now.eta_seconds is not None:
            assert 0 <= now.eta_low_seconds <= now.eta_seconds <= now.eta_high_seconds
            assert accrued <= charged.projected_low <= charged.projected <= charged.projected_high
    trainer.step(1.0)
    ended = trainer.progress.snapshot(ended=True)
    assert (ended.eta_low_seconds, ended.eta_seconds, ended.eta_high_seconds, ended.percent) == (
        0.0,
        0.0,
        0.0,
        100.0,
    )
    assert ended.cost.projected == ended.cost.accrued


@given(st.lists(st.floats(0.1, 100), min_size=3, max_size=50))
def test_no_time_is_promised_that_the_steps_do_not_support(seconds: list[float]) -> None:
    """However optimistic the estimate was."""
    trainer = Trainer(Job(estimate=estimated(0.1, 0.2, 0.3)))
    for step_seconds in seconds:
        trainer.step(step_seconds)
    mean = sum(seconds[1:]) / (len(seconds) - 1)
    assert trainer.progress.snapshot().eta_seconds >= round((100 - len(seconds)) * mean, 1) - 0.1


def test_an_attempt_says_what_it_measured() -> None:
    trainer = Trainer(Job())
    trainer.now = 30.0
    assert trainer.progress.measured == {}
    for _ in range(4):
        trainer.step(2.0)
    trainer.now += 12.0
    assert trainer.progress.measured == {"tokens": 40, "train_seconds": 8.0}
    assert trainer.progress.overhead_seconds == 42.0


def test_an_early_end_is_compared_with_nothing() -> None:
    trainer = Trainer(Job(estimate=estimated(1.0, 2.0, 9.0)), total_steps=2)
    trainer.step(2.0)
    early = trainer.progress.actual()
    assert early is not None
    assert (early.seconds, early.ratio, early.inside_band) == (2.0, None, None)
    trainer.step(2.0)
    whole = trainer.progress.actual()
    assert whole is not None
    assert (whole.seconds, whole.ratio, whole.inside_band) == (4.0, 2.0, True)
    assert Trainer(Job()).progress.actual() is None


def test_the_allowed_silence_of_a_trainer_follows_its_phase() -> None:
    now, floor = 0.0, 600.0
    progress = AttemptProgress(job(), Machine("h100", 1), lambda: now, H100)

    def silent(seconds: float) -> bool:
        nonlocal now
        before = now
        now = now + seconds
        stuck = progress.is_stuck(floor)
        now = before
        return stuck

    progress.listen()
    assert (silent(6 * floor), silent(6 * floor + 1)) == (False, True), (
        "loading, of which nothing is known"
    )
    for number in range(1, 5):
        now += 10.0
        progress.step(step(number, seconds=10.0))
    assert (silent(floor), silent(floor + 1)) == (False, True)
    for number in range(5, 50):
        now += 100.0
        progress.step(step(number, seconds=100.0))
    assert (silent(2000.0), silent(2001.0)) == (False, True), "20 steps of the usual length"
    progress.step(step(100))
    assert (silent(6 * floor), silent(6 * floor + 1)) == (False, True), "merging"


def test_logs_before_the_first_step_are_signs_of_life_for_a_day() -> None:
    """As while the reference of many pairs is computed."""
    now, floor = 0.0, 600.0
    progress = AttemptProgress(job(), Machine("h100", 1), lambda: now, H100)
    progress.listen()
    for now in range(0, 144 * 600 + 1, 30):  # noqa: B007, the clock reads it
        progress.logged()
        assert not progress.is_stuck(floor)
    now += 30
    progress.logged()
    assert progress.is_stuck(floor)
    progress.step(step(1))
    assert not progress.is_stuck(floor)
    progress.logged()
    now += 6 * 600 + 1
    assert progress.is_stuck(floor)
