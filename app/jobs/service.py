from typing import Literal

import structlog
from sqlalchemy.orm import Session

from app.auth import audit
from app.auth.caller import Caller
from app.base.database import now_plus
from app.base.errors import IllegalState, InvalidRequest, NotFound
from app.base.ids import new_id
from app.base.settings import Settings
from app.base.storage import keys
from app.base.tracing import current_traceparent
from app.catalogue.naming import fine_tuned_model_id
from app.estimates import service as estimates
from app.garbage import orphans
from app.http.pagination import check_cursor
from app.jobs import checkpoint_repository, idempotency, repository
from app.jobs.events import NewEvent, append
from app.jobs.plan import plan_job, plan_without_files
from app.jobs.repository import events_after as events_after
from app.jobs.repository import list_of_studies as list_of_studies
from app.jobs.repository import list_using as list_using
from app.jobs.repository import messages as messages
from app.jobs.repository import num_using as num_using
from app.jobs.repository import present as present
from app.jobs.requests import JobFilters
from app.jobs.resolution import FilePlan, resolve_job, resolve_stated
from app.jobs.validation import finish_validation, queue_validated
from app.models import (
    Attempt,
    Checkpoint,
    Desired,
    FileStatus,
    Job,
    JobMetadata,
    JobStatus,
)
from app.models.falqon_options import Budget
from app.models.job_lifecycle import TERMINAL, sources
from app.models.job_request import EstimateRequest, JobRequest
from app.projects import quotas
from falqon_core.estimate.estimate import Estimate

PAUSED_BY_USER = "requested"
MAX_COMPARED_GPUS = 16


def create_once(
    session: Session,
    submission: idempotency.SubmissionRequest,
    request: JobRequest,
    settings: Settings,
    event_type: Literal["job.created", "job.cloned"] = "job.created",
) -> Job:
    """Create a job, or return the one that the same request has created before."""
    job_id = new_id("ftjob-")
    earlier = idempotency.find_or_record(session, submission, job_id)
    if earlier is not None:
        return earlier
    job = create(session, submission.caller, request, settings, job_id)
    audit.record(session, submission.caller, event_type, job_id)
    return job


def create(
    session: Session,
    caller: Caller,
    request: JobRequest,
    settings: Settings,
    job_id: str,
    study_id: str | None = None,
) -> Job:
    project_id = caller.project_id
    planned = plan_job(session, project_id, request, settings, lock=True)
    quotas.admit_job(session, project_id)
    job = _new_job(project_id, request, planned, job_id)
    job.key_id = caller.key_id
    job.request_id = structlog.contextvars.get_contextvars().get("request_id")
    job.traceparent = current_traceparent()
    job.study_id = study_id
    session.add(job)
    session.flush()
    pairs = (request.metadata or {}).items()
    session.add_all(
        JobMetadata(job_id=job.id, project_id=project_id, name=name, value=value)
        for name, value in pairs
    )
    created = [NewEvent(f"Created fine-tuning job: {job.id}"), NewEvent("Validating files")]
    if planned.is_checked:
        queue_validated(session, job, settings, planned, created)
    else:
        append(session, job.id, created)
    session.refresh(job)
    return job


def preview(session: Session, project_id: str, request: JobRequest, settings: Settings) -> Job:
    """Return the job as it would be created, without writing it."""
    planned = plan_job(session, project_id, request, settings)
    job = _new_job(project_id, request, planned, "ftjob-dry-run")
    job.created_at = planned.training.created_at
    _require_checked(planned)
    resolved = resolve_job(session, settings, planned)
    job.recipe = resolved.recipe
    job.estimate = resolved.estimate
    job.num_gpus = resolved.num_gpus
    return job


def estimate(
    session: Session,
    project_id: str,
    request: JobRequest,
    settings: Settings,
    target: estimates.TrainingTarget | None = None,
) -> tuple[Estimate, list[Estimate], list[Estimate]]:
    """Return the estimate, estimates for each number of GPUs that the job could have, on a CPU
    none, and those for each kind of device that live workers have.
    """
    if isinstance(request, EstimateRequest) and request.training_data is not None:
        data = request.training_data
        without_files = plan_without_files(session, project_id, request, settings)

        def estimate_on(target: estimates.TrainingTarget | None) -> Estimate:
            return resolve_stated(session, settings, without_files, data, target).estimate
    else:
        planned = plan_job(session, project_id, request, settings)
        _require_checked(planned)

        def estimate_on(target: estimates.TrainingTarget | None) -> Estimate:
            return resolve_job(session, settings, planned, target).estimate

    most = target or estimates.most_gpus(session, settings, request.falqon.gpu)
    counts = range(1, min(most.num_devices, MAX_COMPARED_GPUS) + 1)
    if most.device.name == "cpu":
        counts = range(0)
    by_num_gpus = [estimate_on(most._replace(num_devices=n)) for n in counts]
    by_device = [estimate_on(each) for each in estimates.live_targets(session, settings)]
    return estimate_on(target), by_num_gpus, by_device


def get(session: Session, project_id: str, job_id: str) -> Job:
    job = repository.find(session, project_id, job_id)
    if job is None:
        raise _unknown(job_id)
    return job


def page(
    session: Session, project_id: str, filters: JobFilters, *, after: str | None, limit: int
) -> list[Job]:
    """Return the newest first, at most one more than `limit`."""
    check_cursor(after, "ftjob-", "a job")
    return repository.newest_first(session, project_id, filters, after=after, limit=limit)


def model_id(session: Session, job: Job) -> str:
    """Return the id that the job's model has, or will have."""
    return fine_tuned_model_id(job, repository.project_name(session, job.project_id))


def checkpoints(session: Session, job: Job, *, after: str | None, limit: int) -> list[Checkpoint]:
    check_cursor(after, "ftckpt_", "a checkpoint")
    return checkpoint_repository.newest_first(session, job.id, after=after, limit=limit)


def attempt_with_log(session: Session, job: Job, number: int | None) -> Attempt | None:
    """Return the attempt of this number, or the newest one that has a log."""
    attempts = repository.attempts(session, [job.id])[job.id]
    if number is None:
        return next((attempt for attempt in reversed(attempts) if attempt.log_bytes), None)
    attempt = next((attempt for attempt in attempts if attempt.number == number), None)
    if attempt is None:
        raise NotFound(f"The job has no attempt {number}.", param="attempt")
    return attempt


def delete(session: Session, project_id: str, job_id: str) -> list[str]:
    """Delete a job with its events, attempts, their logs and checkpoints, never its model; return
    the prefixes of the unreferenced bytes.
    """
    job, status = _find_locked(session, project_id, job_id)
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


def cancel(session: Session, project_id: str, job_id: str) -> Job:
    """Cancel a job at once if no worker has it; otherwise set the desired state, which its worker
    reads with the next heartbeat. Idempotent.
    """
    job, status = _find_locked(session, project_id, job_id)
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
    job, status = _find_locked(session, project_id, job_id)
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
    job, status = _find_locked(session, project_id, job_id)
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


def unknown_event(param: str, value: str) -> InvalidRequest:
    return InvalidRequest(
        f"{param}: '{value}' is not an event of this job.", param=param, code="invalid_cursor"
    )


def _require_checked(planned: FilePlan) -> None:
    """Raise `InvalidRequest` while the check of the training file is still to come."""
    if planned.training.status != FileStatus.PROCESSED:
        raise InvalidRequest(
            f"training_file: {planned.training.id} is still being checked; "
            "ask again when its status is 'processed'.",
            param="training_file",
            code="file_not_processed",
        )


def _new_job(project_id: str, request: JobRequest, planned: FilePlan, job_id: str) -> Job:
    base_checkpoint_id = planned.checkpoint.id if planned.checkpoint else None
    validation_file_id = planned.validation.id if planned.validation else None
    return Job(
        id=job_id,
        project_id=project_id,
        status=JobStatus.VALIDATING_FILES,
        desired=Desired.RUN,
        base_model_id=planned.model.id,
        base_checkpoint_id=base_checkpoint_id,
        training_file_id=planned.training.id,
        validation_file_id=validation_file_id,
        suffix=request.suffix or None,
        requested=request,
        job_metadata=request.metadata,
        budget=request.falqon.budget,
        priority=request.priority,
        num_gpus=planned.num_gpus,
        gpu=request.falqon.gpu,
    )


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


def _find_locked(session: Session, project_id: str, job_id: str) -> tuple[Job, JobStatus]:
    job = repository.find_locked(session, project_id, job_id)
    if job is None:
        raise _unknown(job_id)
    return job, JobStatus(job.status)


def _write(session: Session, job: Job, message: str, **values: object) -> Job:
    append(session, job.id, [NewEvent(message)], guard=(Job.status == job.status,), **values)
    session.refresh(job)
    return job


def _state(job: Job) -> str:
    if job.status == JobStatus.RUNNING and job.desired == Desired.CANCEL:
        return "being cancelled"
    return job.status


def _unknown(job_id: str) -> NotFound:
    return NotFound(
        f"Could not find fine tune: {job_id}", param="fine_tune_id", code="fine_tune_not_found"
    )
