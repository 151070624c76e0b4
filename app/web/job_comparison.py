"""Table of a comparison: settings that differ, then measurements, a column for each job."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.base.text import duration
from app.jobs.schemas import JobObject
from app.web.job_form import label_of
from app.web.text import metric, number, setting, usd
from falqon_core.estimate.comparison import GIB, MIB, Better, TrainingFigures, mark_best

Value = Callable[[JobObject, TrainingFigures], float | None]
FILES = ("training_file", "validation_file")


@dataclass(frozen=True, slots=True)
class Measure:
    """`better`: the direction in which one job beats another, if any."""

    title: str
    value: Value
    write: Callable[[float], str]
    better: Better = "lower"


@dataclass(frozen=True, slots=True)
class ComparedRow:
    title: str
    cells: list[str | None]  # One text for each job; None where it has no value.
    best: list[bool]


def _progress(name: str) -> Value:
    return lambda job, _: (job.progress or {}).get(name)


def _figure(name: str) -> Value:
    return lambda _, figures: getattr(figures, name)


def _lowest_loss(job: JobObject, figures: TrainingFigures) -> float | None:
    best = job.best_checkpoint
    return best.metrics["valid_loss"] if best else figures.valid_loss


def _cost(job: JobObject, _: TrainingFigures) -> float | None:
    return float(job.cost.accrued) if job.cost else None


def _cost_of_tokens(job: JobObject, figures: TrainingFigures) -> float | None:
    tokens = (job.progress or {}).get("trained_tokens")
    cost = _cost(job, figures)
    return None if cost is None or not tokens else cost / tokens * 1e6


def _dollars(amount: float) -> str:
    return usd(f"{amount:f}")


MEASURES = (
    Measure("Lowest validation loss", _lowest_loss, metric),
    Measure("Validation loss, FP8 weights", _figure("valid_loss_fp8_weights"), metric),
    Measure("Validation loss, as served", _figure("valid_loss_as_served"), metric),
    Measure("Training loss", _progress("train_loss"), metric, ""),
    Measure("Steps", _progress("step"), number, ""),
    Measure("Trained tokens", _progress("trained_tokens"), number, ""),
    Measure("Trained parameters", _figure("trained_parameters"), number, ""),
    Measure("Tokens per second", _figure("tokens_per_second"), number, "higher"),
    Measure("Run time", lambda job, _: job.execution_seconds or None, duration),
    Measure("Peak memory, GiB", _figure("memory_bytes"), lambda size: f"{size / GIB:.2f}"),
    Measure("Model size, MiB", _figure("artifact_bytes"), lambda size: f"{size / MIB:,.1f}"),
    Measure("Cost", _cost, _dollars),
    Measure("Cost per million tokens", _cost_of_tokens, _dollars),
)


def measured_rows(
    jobs: Sequence[JobObject], figures: Sequence[TrainingFigures]
) -> list[ComparedRow]:
    """Return the measures for which some job has a value, each with its best marked."""
    rows = []
    verdicts = [job.verdict.short if job.verdict else None for job in jobs]
    if any(verdicts):
        rows.append(ComparedRow("Against its base", verdicts, [False] * len(jobs)))
    for measure in MEASURES:
        values = [measure.value(*pair) for pair in zip(jobs, figures, strict=True)]
        if any(value is not None for value in values):
            cells = [None if value is None else measure.write(value) for value in values]
            rows.append(ComparedRow(measure.title, cells, mark_best(values, cells, measure.better)))
    return rows


def setting_rows(
    jobs: Sequence[JobObject], file_names: dict[str, str]
) -> tuple[list[ComparedRow], list[ComparedRow]]:
    """Return the settings that differ, and those that are the same."""
    settings = [_settings(job, file_names) for job in jobs]
    names = list(dict.fromkeys(name for of_job in settings for name in of_job))
    different: list[ComparedRow] = []
    same: list[ComparedRow] = []
    for name in names:
        values = [of_job.get(name) for of_job in settings]
        cells = [None if value is None else setting(value) for value in values]
        row = ComparedRow(label_of(name), cells, [False] * len(cells))
        (same if all(value == values[0] for value in values) else different).append(row)
    return different, same


def _settings(job: JobObject, file_names: dict[str, str]) -> dict[str, Any]:
    files = {name: getattr(job, name) for name in FILES}
    named = {name: file_names.get(id_ or "", id_) for name, id_ in files.items()}
    return {"model": job.model} | named | (job.config or {})
