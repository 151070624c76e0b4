"""Stages of a job, from the check of its files to the verified model, with the time of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from app.models import Attempt, Event, Job, JobStatus
from app.models.job_lifecycle import TERMINAL
from app.models.job_progress import JobProgress

CHECK, QUEUE, LOAD, TRAIN, MERGE, VERIFY = range(6)
NAMES = ("Files checked", "Queued", "Loading", "Training", "Merging", "Verifying")
OF_RANGE_TEST = NAMES[:MERGE]  # It has no model.
State = Literal["done", "now", "stopped", "waiting"]


@dataclass(frozen=True, slots=True)
class Stage:
    name: str
    state: State
    seconds: float | None = None


def is_exporting(job: Job) -> bool:
    """Return True once the last step of a running job with a model is done."""
    progress = job.progress
    if job.requested.falqon.find_rate:
        return False
    return job.status == JobStatus.RUNNING and progress is not None and _is_trained(progress)


def _is_trained(progress: JobProgress) -> bool:
    return progress.stopped_early or progress.step >= progress.total_steps


def stages_of(job: Job, attempt: Attempt | None, messages: Sequence[Event]) -> list[Stage]:
    """Return all stages. `attempt`: the newest, if there is one; `messages`: the newest events."""
    names = OF_RANGE_TEST if job.requested.falqon.find_rate else NAMES
    reached = min(_reached(job, attempt), len(names) - 1)
    seconds = _seconds(job, attempt, messages)
    if job.status == JobStatus.SUCCEEDED:
        return [Stage(name, "done", seconds.get(i)) for i, name in enumerate(names)]
    here: State = "stopped" if job.status in {*TERMINAL, JobStatus.PAUSED} else "now"
    return [
        Stage(name, "done" if i < reached else here if i == reached else "waiting", seconds.get(i))
        for i, name in enumerate(names)
    ]


def _reached(job: Job, attempt: Attempt | None) -> int:
    progress = job.progress or JobProgress()
    if attempt is None or job.status == JobStatus.QUEUED:
        return CHECK if job.recipe is None else QUEUE
    if attempt.start_step is None:
        return LOAD
    if not _is_trained(progress):
        return TRAIN
    return MERGE if progress.model_step is None else VERIFY


def _seconds(job: Job, attempt: Attempt | None, messages: Sequence[Event]) -> dict[int, float]:
    """Return the seconds of the stages for which they are known."""
    if attempt is None or job.started_at is None:
        return {}
    seconds = {QUEUE: _between(job.created_at, job.started_at)}
    began = next(
        (
            event.created_at
            for event in messages
            if event.attempt == attempt.number and event.data and "start_step" in event.data
        ),
        None,
    )
    if began is None:
        return seconds
    seconds[LOAD] = _between(attempt.created_at, began)
    trained = job.progress.elapsed_seconds if job.progress else None
    if trained is None:
        return seconds
    seconds[TRAIN] = trained
    exported = next(
        (
            event.created_at
            for event in messages
            if event.attempt == attempt.number and event.data and "model_step" in event.data
        ),
        None,
    )
    if exported is not None:
        seconds[MERGE] = max(0.0, _between(began, exported) - trained)
        if job.finished_at is not None:
            seconds[VERIFY] = _between(exported, job.finished_at)
    return seconds


def _between(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds())
