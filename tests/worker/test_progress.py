from decimal import Decimal

from app.models import Job
from app.models.base import JsonObject
from falqon_core.spec.config import Recipe
from falqon_core.spec.estimate import DEVICES, estimate
from falqon_core.spec.messages import StepMetrics
from falqon_core.spec.models import ModelDimensions
from tests.support.api import TINY_CONFIG
from worker.gpu import Machine
from worker.progress import Progress

HOUR = 3600.0


def step(number: int, total: int = 100, seconds: float = 36.0) -> StepMetrics:
    return StepMetrics(
        step=number, total_steps=total, epoch=number / total, train_loss=1.0,
        train_mean_token_accuracy=0.5, learning_rate=1e-3, grad_norm=1.0,
        tokens=10, trained_tokens=10 * number, tokens_per_second=100.0, elapsed_seconds=number * seconds,
        codes_changed=0.25, memory_bytes=2**30, mfu=0.125,
    )  # fmt: skip


def job(progress: JsonObject | None = None, device_seconds: float = 0.0, estimate: JsonObject | None = None) -> Job:
    return Job(progress=progress, device_seconds=device_seconds, estimate=estimate)


def test_cost_and_time_left_follow_the_measured_steps() -> None:
    progress = Progress(job(), Machine("h100", 2), lambda: HOUR / 2)
    for number in range(1, 51):
        progress.step(step(number))
    now = progress.snapshot()
    assert (now["step"], now["percent"], now["eta_seconds"], now["trained_tokens"]) == (50, 50.0, 1800.0, 500)
    assert now["eta_low_seconds"] <= now["eta_seconds"] <= now["eta_high_seconds"]
    assert now["cost"]["accrued"] == "2.6900"
    assert now["cost"]["projected"] == "5.3800"
    assert Decimal(now["cost"]["projected_low"]) <= Decimal("5.38") <= Decimal(now["cost"]["projected_high"])
    assert progress.device_seconds == HOUR


def test_what_a_step_says_of_its_device_reaches_job_and_event() -> None:
    progress = Progress(job(), Machine("h100", 1), lambda: HOUR)
    progress.step(step(1))
    now, event = progress.snapshot(), progress.metrics(step(1))
    assert (now["memory_bytes"], now["mfu"], now["gpu_utilization"]) == (2**30, 0.125, None)
    assert (event["codes_changed"], event["memory_bytes"], event["mfu"]) == (0.25, 2**30, 0.125)
    assert "gpu_utilization" not in event, "an event leaves out what is not known"


def test_a_job_that_succeeded_early_is_complete() -> None:
    progress = Progress(job(), Machine("h100", 1), lambda: HOUR)
    progress.step(step(40))
    ended = progress.snapshot(ended=True)
    assert (ended["step"], ended["percent"], ended["eta_seconds"]) == (40, 100.0, 0.0)


def test_earlier_attempts_are_paid_for_too() -> None:
    before = {"step": 40, "cost": {"accrued": "1.2500"}}
    progress = Progress(job(before, 700.0), Machine("h100", 1), lambda: HOUR)
    progress.step(step(41))
    now = progress.snapshot()
    assert now["cost"]["accrued"] == "3.9400"
    assert now["eta_seconds"] is None, "one step of this attempt measures nothing"
    assert now["cost"]["projected"] is None
    assert progress.device_seconds == 700.0 + HOUR


def test_before_the_first_step_the_last_known_progress_stays() -> None:
    progress = Progress(job({"step": 40, "cost": {"accrued": "1"}}), Machine("h100", 1), lambda: 0.0)
    assert progress.snapshot()["step"] == 40


def test_a_device_without_a_price_costs_nothing_that_we_know() -> None:
    progress = Progress(job(), Machine("some-new-gpu", 1), lambda: HOUR)
    progress.step(step(1))
    assert progress.snapshot()["cost"] is None
    assert progress.metrics(step(1))["cost_accrued"] is None


def test_until_steps_are_measured_the_estimate_speaks() -> None:
    recipe = Recipe().resolved(1000)
    given = estimate(ModelDimensions.from_config(TINY_CONFIG), recipe, num_records=1000, tokens_per_epoch=10**9, device=DEVICES["h100"])
    progress = Progress(job(estimate=given.model_dump(mode="json")), Machine("h100", 1), lambda: 0.0)
    progress.step(step(25))
    now = progress.snapshot()
    assert now["eta_seconds"] == round(given.seconds.expected * 0.75, 1)
    assert now["eta_low_seconds"] < now["eta_seconds"] < now["eta_high_seconds"]
    assert Decimal(now["cost"]["projected_low"]) <= Decimal(now["cost"]["projected"]) <= Decimal(now["cost"]["projected_high"])
