"""Changes of a job's state by its user: cancel, pause, resume and delete."""

from sqlalchemy.orm import Session

from app.base.database import now_plus
from app.base.errors import IllegalState
from app.base.settings import Settings
from app.base.storage import keys
from app.garbage import orphans
from app.jobs import checkpoint_repository, repository
from app.jobs.events import NewEvent, append
from app.jobs.lookup import get
from app.jobs.validation import finish_validation
from app.models import Desired, Job, JobStatus
from app.models.falqon_options import Budget
from app.models.job_lifecycle import TERMINAL, sources
from app.projects import quotas

PAUSED_BY_USER = "requested"


def cancel(session: Session, project_id: str, job_id: str) -> Job:
    """Cancel a job at once if no worker has it; otherwise set the desired state, which its worker
    reads with the next heartbeat. Idempotent.
    """
    job = get(session, project_id, job_id, lock=True)
    status = JobStatus(job.status)
    if status is JobStatus.CANCELLED or (
        status is JobStatus.RUNNING and job.desired == Desired.CANCEL
    ):
        return job
    if status not in sources(JobStatus.CANCELLED):
        raise IllegalState(
            f"The job has already {status}; it cannot be cancelled.", code="job_already_ended"
        )
    if status is JobStatus.RUNNING:
        return _write(
            session,
            job,
            "Cancellation requested; the worker stops at its next step",
            desired=Desired.CANCEL,
        )
    return _write(
        session,
        job,
        "The job is cancelled",
        status=JobStatus.CANCELLED,
        desired=Desired.CANCEL,
        finished_at=now_plus(),
    )


def pause(session: Session, project_id: str, job_id: str) -> Job:
    job = get(session, project_id, job_id, lock=True)
    status = JobStatus(job.status)
    if status not in sources(JobStatus.PAUSED) or job.desired == Desired.CANCEL:
        raise IllegalState(
            f"The job is {_state(job)}; it cannot be paused.", code="job_not_pausable"
        )
    desired: dict[str, object] = {"desired": Desired.PAUSE, "paused_reason": PAUSED_BY_USER}
    if status is JobStatus.RUNNING:
        return _write(
            session, job, "Pause requested; the worker writes a checkpoint and stops", **desired
        )
    return _write(session, job, "The job is paused", status=JobStatus.PAUSED, **desired)


def resume(
    session: Session, project_id: str, job_id: str, settings: Settings, change: Budget | None = None
) -> Job:
    """Resume a job. Caps of the budget that are absent in `change` stay, null removes a cap."""
    job = get(session, project_id, job_id, lock=True)
    status = JobStatus(job.status)
    is_pausing = status is JobStatus.RUNNING and job.desired == Desired.PAUSE
    if status is not JobStatus.PAUSED and not is_pausing:
        raise IllegalState(
            f"The job is {_state(job)}; only a paused job can be resumed.", code="job_not_paused"
        )
    desired: dict[str, object] = {
        "desired": Desired.RUN,
        "paused_reason": None,
        "budget": _change_budget(job, change),
        "not_before": None,
    }
    if is_pausing:
        return _write(session, job, "The pause is withdrawn", **desired)
    quotas.admit_execution(session, project_id)
    if job.recipe is not None:
        return _write(
            session,
            job,
            "The job is resumed and waits for a worker",
            status=JobStatus.QUEUED,
            notified_at=None,
            **desired,
        )
    _write(session, job, "The job is resumed", status=JobStatus.VALIDATING_FILES, **desired)
    finish_validation(session, job, settings)  # the check may have ended meanwhile
    session.refresh(job)
    return job


def delete(session: Session, project_id: str, job_id: str) -> list[str]:
    """Delete a job with its events, attempts, their logs and checkpoints, never its model; return
    the prefixes of the unreferenced bytes.
    """
    job = get(session, project_id, job_id, lock=True)
    status = JobStatus(job.status)
    if status not in TERMINAL:
        raise IllegalState(
            f"The job is {_state(job)}; cancel it before you delete it.", code="job_not_ended"
        )
    if (used := checkpoint_repository.live_job_from(session, job_id)) is not None:
        other_id, user = used
        if user == project_id:
            whose, advice = other_id, "; cancel that one first"
        else:
            whose, advice = "a job of another project", ""
        raise IllegalState(
            f"A checkpoint of the job is used by {whose}, which has not ended{advice}.",
            code="checkpoint_in_use",
        )
    prefixes = [
        checkpoint.storage_prefix
        for checkpoint in checkpoint_repository.of_jobs(session, [job_id])[job_id]
    ]
    prefixes += [
        keys.log_prefix(project_id, job_id, attempt.number)
        for attempt in repository.attempts(session, [job_id])[job_id]
        if attempt.log_bytes
    ]
    repository.delete(session, job_id)
    # Should they not be removed now.
    orphans.mark_orphaned(session, [f"{prefix}/" for prefix in prefixes])
    return prefixes


def _change_budget(job: Job, change: Budget | None) -> Budget | None:
    """Return the changed budget. Raises `IllegalState` if it is used up."""
    if job.budget is None and change is None:
        return None
    changed = change.model_dump(exclude_unset=True) if change else {}
    budget = (job.budget or Budget()).model_copy(update=changed)
    accrued = job.progress.cost.accrued if job.progress and job.progress.cost else None
    if cap := budget.find_reached_cap(job.execution_seconds, accrued):
        name = cap.split()[0]
        spent = f"{job.execution_seconds:.0f} s"
        if accrued is not None:
            spent += f" and ${accrued}"
        raise IllegalState(
            f"falqon.budget.{name}: {cap} is used up ({spent} spent); resume with a higher cap, "
            f'{{"falqon": {{"budget": {{"{name}": …}}}}}}, or null for none.',
            param=f"falqon.budget.{name}",
            code="budget_exhausted",
        )
    return budget


def _write(session: Session, job: Job, message: str, **values: object) -> Job:
    append(session, job.id, [NewEvent(message)], guard=(Job.status == job.status,), **values)
    session.refresh(job)
    return job


def _state(job: Job) -> str:
    if job.status == JobStatus.RUNNING and job.desired == Desired.CANCEL:
        return "being cancelled"
    return job.status
