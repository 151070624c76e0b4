"""Active and ended jobs of a project, for callers that wait for the end."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import Job, JobStatus
from app.models.job_lifecycle import TERMINAL

# Ordered by their expected end.
LIVE_IN_ORDER = (
    JobStatus.RUNNING,
    JobStatus.VALIDATING_FILES,
    JobStatus.QUEUED,
    JobStatus.PAUSED,
)


def list_live_ids(session: Session, project_id: str, *, limit: int) -> list[str]:
    """Return the ids of jobs that have not ended, by their expected end."""
    ids: list[str] = []
    for status in LIVE_IN_ORDER:  # one by one, in the order of the index
        statement = select(Job.id).where(Job.project_id == project_id, Job.status == status)
        ids += session.scalars(statement.order_by(Job.id).limit(limit - len(ids)))
    return ids


def list_ended(session: Session, project_id: str, ids: Sequence[str]) -> list[Job]:
    """Return the project's jobs with these ids that have ended."""
    statement = select(Job).where(
        Job.project_id == project_id, Job.id.in_(ids), Job.status.in_(TERMINAL)
    )
    return list(session.scalars(statement.order_by(Job.finished_at)))
