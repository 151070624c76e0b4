from collections.abc import Callable
from datetime import datetime
from statistics import median
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import Attempt, Evaluation, Job, JobStatus, OperationStatus
from falqon_core.estimate.estimate import Actual
from falqon_core.estimate.evaluation import AnswerRate
from falqon_core.estimate.throughput import ThroughputSample

NEWEST_ATTEMPTS = 200  # attempts of all projects
SLACK_SECONDS = 60.0  # a worker counts from before its attempt has a row
NEWEST_JOBS = 1000
NEWEST_EVALUATIONS = 20


class Ended(NamedTuple):
    model: str
    method: str
    device: str
    actual: Actual


class ProjectSample(NamedTuple):
    """Measurements of an attempt, for the project of its job."""

    project_id: str
    sample: ThroughputSample


def samples(
    session: Session, base_model_id: str, method: str, device: str, num_devices: int
) -> list[ProjectSample]:
    """Return the samples of every project, newest first: a rate does not reveal the data. Samples
    that claim more seconds than their attempt lasted are left out.
    """
    kind = (
        Attempt.base_model_id == base_model_id,
        Attempt.method == method,
        Attempt.device == device,
        Attempt.num_devices == num_devices,
    )
    measured = (
        Attempt.outcome == JobStatus.SUCCEEDED,
        Attempt.tokens > 0,
        Attempt.train_seconds > 0,
    )
    columns = (Attempt.tokens, Attempt.train_seconds, Attempt.overhead_seconds)
    age = (Attempt.created_at, Attempt.ended_at)
    statement = (
        select(Job.project_id, *columns, *age)
        .join(Job, Job.id == Attempt.job_id)
        .where(*kind, *measured, Attempt.ended_at.is_not(None))
        .order_by(Attempt.created_at.desc())
        .limit(NEWEST_ATTEMPTS)
    )
    return [
        ProjectSample(project_id, ThroughputSample(tokens / seconds, overhead))
        for project_id, tokens, seconds, overhead, begin, end in session.execute(statement)
        if tokens and seconds and end and _is_within(begin, end, max(seconds, overhead or 0.0))
    ]


def _is_within(begin: datetime, end: datetime, seconds: float) -> bool:
    return seconds <= (end - begin).total_seconds() + SLACK_SECONDS


def find_answer_rate(
    session: Session, project_id: str, base_model_id: str, is_charged: Callable[[str], bool]
) -> AnswerRate | None:
    """Return the median over the project's newest evaluations of models of this base, of those
    answers that are charged.
    """
    statement = (
        select(Evaluation.num_answers, Evaluation.plan, Evaluation.seconds, Evaluation.cost)
        .join(Job, Job.id == Evaluation.job_id)
        .where(
            Evaluation.project_id == project_id,
            Evaluation.status == OperationStatus.COMPLETED,
            Job.base_model_id == base_model_id,
            Evaluation.num_answers > 0,
            Evaluation.seconds > 0,
            Evaluation.cost.is_not(None),
        )
        .order_by(Evaluation.id.desc())
        .limit(NEWEST_EVALUATIONS)
    )
    rows = []
    for num_answers, plan, seconds, cost in session.execute(statement):
        # Each model gives the same number of answers.
        answers_each = num_answers // len(plan.models)
        num_charged = answers_each * sum(is_charged(each.model) for each in plan.models)
        if num_charged and seconds is not None and cost is not None:
            rows.append(AnswerRate(seconds / num_charged, cost / num_charged))
    return AnswerRate(*map(median, zip(*rows, strict=True))) if rows else None


def list_ended(session: Session, project_id: str) -> list[Ended]:
    """Return the newest jobs that completed all their steps."""
    statement = (
        select(
            Job.base_model_id,
            Job.recipe,
            Job.estimate["device"].as_string(),
            Job.actual,
        )
        .where(
            Job.project_id == project_id, Job.status == JobStatus.SUCCEEDED, Job.actual.is_not(None)
        )
        .order_by(Job.id.desc())
        .limit(NEWEST_JOBS)
    )
    return [
        Ended(model, recipe.kind, device, actual)
        for model, recipe, device, actual in session.execute(statement)
        if recipe is not None and actual is not None
    ]
