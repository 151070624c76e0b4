from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import Job


def states(session: Session, job_ids: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Return (number of the last event, status) of those that exist."""
    rows = session.execute(
        select(Job.id, Job.last_event_seq, Job.status).where(Job.id.in_(job_ids))
    )
    return {job_id: (seq, status) for job_id, seq, status in rows}
