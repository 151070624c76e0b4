"""Creation of jobs, and what a request for one would create."""

from typing import Literal

import structlog
from sqlalchemy.orm import Session

from app.auth import audit
from app.auth.caller import Caller
from app.base.errors import Forbidden, InvalidRequest
from app.base.ids import new_id
from app.base.settings import Settings
from app.base.tracing import current_traceparent
from app.estimates import service as estimates
from app.jobs import agent_budget, idempotency
from app.jobs.events import NewEvent, append
from app.jobs.metadata import add_pairs
from app.jobs.plan import plan_job, plan_without_files
from app.jobs.resolution import FilePlan, resolve_job, resolve_stated
from app.jobs.validation import queue_validated
from app.models import Desired, FileStatus, Job, JobStatus, Scope
from app.models.job_request import EstimateRequest, JobRequest
from app.projects import quotas
from falqon_core.estimate.estimate import Estimate

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
    if request.falqon.switch is not None and caller.scope is Scope.AGENT:
        raise Forbidden(
            "falqon.switch: an agent's key changes no names of models; leave it out, and have the "
            "name switched with a key of the scope 'write'.",
            param="falqon.switch",
        )
    planned = plan_job(session, project_id, request, settings, lock=True)
    agent_budget.admit_job(session, caller, request.falqon.budget)
    quotas.admit_job(session, project_id)
    job = _new_job(project_id, request, planned, job_id)
    job.key_id = caller.key_id
    job.request_id = structlog.contextvars.get_contextvars().get("request_id")
    job.traceparent = current_traceparent()
    job.study_id = study_id
    session.add(job)
    session.flush()
    add_pairs(session, job)
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
