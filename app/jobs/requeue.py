"""Operator's actions on a job that a worker does not release, or that waits after a loss."""

from typing import Literal

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.auth import audit
from app.auth.caller import Caller
from app.base.database import UNSYNCED
from app.base.errors import IllegalState, NotFound
from app.base.settings import Settings
from app.http.pagination import Object
from app.jobs import claims
from app.models import Job, JobStatus
from app.models.job_lifecycle import TERMINAL
from app.services import Services


class Requeued(Object):
    object: Literal["fine_tuning.job.requeued"] = "fine_tuning.job.requeued"
    message: str


def requeue_job(services: Services, caller: Caller, job_id: str) -> Requeued:
    """Requeue a job of any project."""
    caller.must_administer_installation()
    with services.database.transaction() as session:
        message = requeue(session, job_id, services.settings)
        audit.record(session, caller, "job.requeued", job_id)
    services.notifier.notify(Job, job_id)
    return Requeued(id=job_id, message=message)


def requeue(session: Session, job_id: str, settings: Settings) -> str:
    """Let the next worker claim the job; return a description of the change. Raises `NotFound` and
    `IllegalState`.
    """
    job = session.get(Job, job_id)
    if job is None:
        raise NotFound(f"No job is named '{job_id}'.")
    owner = job.lease_owner
    if claims.take_back(session, job_id, max_infra_failures=settings.max_infra_failures):
        return f"{job_id} is taken from {owner} and waits in the queue."
    is_queued = (Job.id == job_id, Job.status == JobStatus.QUEUED)
    values = {"not_before": None, "notified_at": None, "infra_failures": 0}
    statement = update(Job).where(*is_queued).values(**values).returning(Job.id)
    if session.scalar(statement, execution_options=UNSYNCED) is not None:
        return f"{job_id} waits for the next worker; the count of its lost attempts is reset."
    if job.status in TERMINAL:
        raise IllegalState(f"{job_id} has ended ({job.status}): submit the job once more instead.")
    raise IllegalState(f"{job_id} is {job.status}: its user resumes it, or its files are checked.")
