from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import Attempt, Job, JobStatus
from falqon_core.estimate.estimate import Actual
from falqon_core.estimate.throughput import ThroughputSample

NEWEST_ATTEMPTS = 50  # enough for a median; machines and versions change
NEWEST_JOBS = 1000


class Ended(NamedTuple):
    model: str
    method: str
    device: str
    actual: Actual


def samples(
    session: Session, base_model_id: str, method: str, device: str, num_devices: int
) -> list[ThroughputSample]:
    """Return those of every project: a rate tells nothing of what was trained."""
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
    statement = (
        select(*columns)
        .where(*kind, *measured)
        .order_by(Attempt.created_at.desc())
        .limit(NEWEST_ATTEMPTS)
    )
    return [
        ThroughputSample(tokens / seconds, overhead)
        for tokens, seconds, overhead in session.execute(statement)
        if tokens and seconds
    ]


def ended(session: Session, project_id: str) -> list[Ended]:
    """The newest jobs that went all their steps."""
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
