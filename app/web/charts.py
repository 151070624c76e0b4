"""Charts of a job's training, and the numbers that a page loads for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.auth.caller import Caller
from app.jobs import service
from app.jobs.history import AttemptSpan
from app.jobs.metrics import SeriesByKey
from app.jobs.readings import DOLLARS
from app.models import Checkpoint, Job, JobStatus
from app.services import Services

AXES = ("elapsed_seconds", "trained_tokens", DOLLARS)  # Axes of a curve beside steps.
MAX_POINTS = 1000  # Points of one curve: more than a wide screen has pixels for.
DIGITS = 6  # Digits of a drawn number.
TRAINS_CODES = ("falqon", "qa_lora")  # methods whose steps change quantized values
CODES = "codes_changed"


@dataclass(frozen=True, slots=True)
class Chart:
    title: str
    keys: tuple[str, ...]
    unit: str = ""
    factor: float = 1.0  # Multiplies a stored value into a shown one.
    is_large: bool = False
    has_log: bool = False  # A logarithmic scale makes sense.
    is_main: bool = False  # Says whether the job learns.


# In this order; a page shows those that its jobs have values for.
CHARTS = (
    Chart("Loss", ("train_loss", "valid_loss"), is_large=True, has_log=True, is_main=True),
    Chart(
        "Token accuracy",
        ("train_mean_token_accuracy", "valid_mean_token_accuracy"),
        "%",
        100.0,
        is_main=True,
    ),
    Chart(
        "Reward accuracy",
        ("train_reward_accuracy", "valid_reward_accuracy"),
        "%",
        100.0,
        is_main=True,
    ),
    Chart("Reward margin", ("train_reward_margin", "valid_reward_margin"), is_main=True),
    Chart("Learning rate", ("learning_rate",)),
    Chart("Gradient norm", ("grad_norm",), has_log=True),
    Chart("Speed", ("tokens_per_second",), "tokens/s"),
    Chart("Quantized values changed", (CODES,), "%", 100.0),
    Chart("Load of experts: most over mean", ("expert_load",)),
    Chart("Experts that no token chose", ("unused_experts",)),
    Chart("Memory", ("memory_bytes",), "GiB", 2.0**-30),
    Chart("CPU use", ("cpu_utilization",), "%"),
    Chart("GPU use", ("gpu_utilization",), "%"),
    Chart("GPU temperature", ("gpu_temperature",), "°C"),
    Chart("Share of the device's peak FLOP/s", ("mfu",), "%", 100.0),
)
KEYS = (*(key for chart in CHARTS for key in chart.keys), *AXES)


def charts_of(jobs: Sequence[Job]) -> list[Chart]:
    """Return the charts for which these jobs may have values; every trainer reports the codes."""
    trains_codes = any(job.recipe is None or job.recipe.method in TRAINS_CODES for job in jobs)
    return [chart for chart in CHARTS if trains_codes or CODES not in chart.keys]


def marks_of(
    spans: Sequence[AttemptSpan], checkpoints: Sequence[Checkpoint]
) -> list[dict[str, Any]]:
    """Return the marks of a curve, by rising step: checkpoints, pauses and later attempts."""
    labels: dict[int, list[str]] = {}
    for number, span in enumerate(spans):
        if number and span.start is not None:
            labels.setdefault(span.start, []).append(f"attempt {span.attempt.number}")
        if span.attempt.outcome == JobStatus.PAUSED and span.end is not None:
            labels.setdefault(span.end, []).append("paused")
    marks = [
        {"step": step, "label": ", ".join(names), "isCheckpoint": False}
        for step, names in labels.items()
    ] + [
        {"step": checkpoint.step, "label": "checkpoint", "isCheckpoint": True}
        for checkpoint in checkpoints
    ]
    return sorted(marks, key=lambda mark: mark["step"])


def read_series(services: Services, caller: Caller, job_id: str) -> SeriesByKey:
    """Return the series that the charts of a job need, without those that have no value."""
    series = service.read_metrics(services, caller, job_id, KEYS, MAX_POINTS)
    return {
        key: [(step, float(f"{value:.{DIGITS}g}")) for step, value in points]
        for key, points in series.items()
        if points
    }
