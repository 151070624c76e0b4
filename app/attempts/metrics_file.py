"""Metrics of a job as the CSV that OpenAI's users find in `result_files`: one line per step."""

from collections.abc import Iterator

from sqlalchemy.orm import Session

from app.base.database import Database
from app.base.storage import Storage, Stored
from app.files import creation
from app.garbage import orphans
from app.jobs import metrics_csv, repository
from app.jobs.effective_steps import effective_steps
from app.jobs.readings import number, step_of
from app.models import File, Job, Purpose
from app.models.base import JsonObject

# Metrics by column; the second ones are those of preference training.
COLUMNS = {
    "train_loss": ("train_loss",),
    "train_accuracy": ("train_mean_token_accuracy", "train_reward_accuracy"),
    "valid_loss": ("valid_loss",),
    "valid_mean_token_accuracy": ("valid_mean_token_accuracy",),
}

Steps = dict[int, dict[str, float]]


class MetricsFile:
    """Stored now, and named by a row only in the transaction that lets the job succeed."""

    def __init__(self, database: Database, storage: Storage, job: Job) -> None:
        with database.read() as session:
            steps = read_steps(session, job.id)
        self.id, key = creation.new_key(job.project_id)
        self._job = job
        self._stored: Stored = orphans.put(database, storage, key, write_csv(steps))

    def add_row(self, session: Session) -> File:
        name = f"{self._job.id}-metrics.csv"
        return creation.add(
            session,
            self._job.project_id,
            self.id,
            self._stored,
            filename=name,
            purpose=Purpose.FINE_TUNE_RESULTS,
        )


def read_steps(session: Session, job_id: str) -> Steps:
    """Return the metrics of each effective step."""
    effective = effective_steps(session, [job_id])[job_id]
    steps: Steps = {}
    for attempt, data in repository.metrics(session, job_id):
        step = step_of(data)
        if step is not None and effective.include(attempt, step):
            steps.setdefault(step, {}).update(_columns(data))
    return steps


def write_csv(steps: Steps) -> Iterator[bytes]:
    rows = ({"step": step} | steps[step] for step in sorted(steps))
    return metrics_csv.write_csv(COLUMNS, rows)


def _columns(data: JsonObject) -> dict[str, float]:
    values: dict[str, float] = {}
    for column, names in COLUMNS.items():
        numbers = (number(name, data.get(name)) for name in names)
        if (value := next((each for each in numbers if each is not None), None)) is not None:
            values[column] = value
    return values
