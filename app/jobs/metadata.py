"""Metadata of a job, which its user may change at any time: among them its title and a note."""

from collections.abc import Mapping

from sqlalchemy import delete
from sqlalchemy.orm import Session

from app.base.errors import InvalidRequest
from app.jobs.lookup import get
from app.models import Job, JobMetadata
from app.models.job_request import MAX_METADATA_PAIRS

TITLE = "title"  # shown in the place of the suffix, which stays part of the model's name
NOTE = "note"
MAX_TITLE = 80  # characters that are shown


def title_of(pairs: Mapping[str, str] | None) -> str:
    """Return the title, cut where it is long; empty where there is none."""
    title = " ".join((pairs or {}).get(TITLE, "").split())
    return title if len(title) <= MAX_TITLE else f"{title[: MAX_TITLE - 1]}…"


def add_pairs(session: Session, job: Job) -> None:
    """Add a row for each pair, for filters."""
    session.add_all(
        JobMetadata(job_id=job.id, project_id=job.project_id, name=name, value=value)
        for name, value in (job.job_metadata or {}).items()
    )


def change(
    session: Session, project_id: str, job_id: str, changes: Mapping[str, str | None]
) -> Job:
    """Set pairs; None removes one."""
    job = get(session, project_id, job_id, lock=True)
    merged = (job.job_metadata or {}) | dict(changes)
    pairs = {name: value for name, value in merged.items() if value is not None}
    if len(pairs) > MAX_METADATA_PAIRS:
        raise InvalidRequest(
            f"metadata: the job would have {len(pairs)} pairs; it may have {MAX_METADATA_PAIRS}.",
            param="metadata",
        )
    job.job_metadata = pairs or None
    session.execute(delete(JobMetadata).where(JobMetadata.job_id == job.id))
    add_pairs(session, job)
    session.flush()
    return job
