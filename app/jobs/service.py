from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy.orm import Session

from app.catalogue.naming import fine_tuned_model_id
from app.database import now_plus
from app.errors import IllegalState, InvalidRequest, NotFound
from app.estimates import service as estimates
from app.files import service as files
from app.garbage import orphans
from app.http.pagination import check_cursor
from app.ids import new_id
from app.inspections.repository import exact_tokens
from app.jobs import idempotency, repository, space
from app.jobs.base_model import base_of
from app.jobs.events import NewEvent, append
from app.jobs.falqon_options import Budget
from app.jobs.lifecycle import TERMINAL, sources
from app.jobs.repository import Filters
from app.jobs.requests import JobRequest, RequestedRecipe, asked
from app.jobs.validation import finish_validation, incompatibility
from app.models import Checkpoint, Desired, Event, File, FileStatus, Job, JobMetadata, JobStatus, Model
from app.projects import quotas
from app.settings import Settings
from falqon_core.contract.config import Recipe
from falqon_core.estimate.estimate import Estimate
from falqon_core.records.file_check import FileReport

PAUSED_BY_USER = "requested"


class Plan(NamedTuple):
    """A request that can be honoured."""

    asked: RequestedRecipe
    model: Model
    checkpoint: Checkpoint | None  # of a training of that model, to continue from
    training: File
    validation: File | None

    @property
    def report(self) -> FileReport | None:
        return FileReport.model_validate(self.training.report) if self.training.status == FileStatus.PROCESSED else None


def plan(session: Session, project_id: str, request: JobRequest, settings: Settings, *, lock: bool = False) -> Plan:
    """Every refusal there is, before anything is written; with `lock` model and files stay as they are found."""
    wanted = asked(request)
    estimates.check_device(request.falqon.gpu, settings)
    model, checkpoint = base_of(session, project_id, request.model, lock=lock)
    estimates.check_fits_model(model.config, wanted.recipe)
    _check_fits_disk(model, wanted.recipe, settings)
    planned = Plan(
        wanted, model, checkpoint, *files.get_for_job(session, project_id, request.training_file, request.validation_file, lock=lock)
    )
    for param, file in (("training_file", planned.training), ("validation_file", planned.validation)):
        if file and file.status == FileStatus.PROCESSED and (reason := incompatibility(file, wanted.recipe)):
            raise InvalidRequest(f"{param}: {reason}", param=param, code=f"invalid_{param}")
    report = planned.report
    if report is not None and estimates.num_training_records(wanted.recipe, report.num_records) < 1:
        raise InvalidRequest(
            f"falqon.validation_fraction: {report.num_records} records are too few to hold some out.", param="falqon.validation_fraction"
        )
    return planned


def _check_fits_disk(model: Model, recipe: Recipe, settings: Settings) -> None:
    """Raise `InvalidRequest` for what the storage can never hold, where that is a folder of this machine."""
    folder = settings.storage_folder
    if folder is None or not folder.is_dir():
        return
    if reason := space.excess(folder, space.expected_bytes(model.config, recipe), "the storage"):
        advice = "Choose a smaller model, falqon.rank or falqon.keep_checkpoints."
        raise InvalidRequest(f"model: {reason}. {advice}", param="model", code=space.TOO_LARGE)


def create_once(session: Session, asking: idempotency.Request, request: JobRequest, settings: Settings) -> Job:
    """A new job, or the one that the same asking made before."""
    job_id = new_id("ftjob-")
    before = idempotency.remember(session, asking, job_id)
    return before or create(session, asking.caller.project_id, request, settings, job_id)


def create(session: Session, project_id: str, request: JobRequest, settings: Settings, job_id: str | None = None) -> Job:
    planned = plan(session, project_id, request, settings, lock=True)
    quotas.admit_job(session, project_id)
    job = _new_job(project_id, request, planned, job_id or new_id("ftjob-"))
    session.add(job)
    session.flush()
    pairs = (request.metadata or {}).items()
    session.add_all(JobMetadata(job_id=job.id, project_id=project_id, name=name, value=value) for name, value in pairs)
    finish_validation(session, job, settings, prior_events=[NewEvent(f"Created fine-tuning job: {job.id}"), NewEvent("Validating files")])
    session.refresh(job)
    return job


def preview(session: Session, project_id: str, request: JobRequest, settings: Settings) -> Job:
    """The job as it would be, never written."""
    planned = plan(session, project_id, request, settings)
    job = _new_job(project_id, request, planned, "ftjob-dry-run")
    job.created_at = planned.training.created_at
    recipe, estimate = _estimated(session, planned, settings)
    job.recipe, job.estimate = recipe, estimate.model_dump(mode="json")
    return job


def estimate(
    session: Session, project_id: str, request: JobRequest, settings: Settings, target: estimates.Target | None = None
) -> Estimate:
    return _estimated(session, plan(session, project_id, request, settings), settings, target)[1]


def get(session: Session, project_id: str, job_id: str) -> Job:
    job = repository.find(session, project_id, job_id)
    if job is None:
        raise _unknown(job_id)
    return job


def page(session: Session, project_id: str, filters: Filters, *, after: str | None, limit: int) -> list[Job]:
    """Newest first, one more than `limit` where there is one."""
    check_cursor(after, "ftjob-", "a job")
    return repository.newest_first(session, project_id, filters, after=after, limit=limit)


def events_after(session: Session, job_id: str, *, after: int, limit: int) -> list[Event]:
    return repository.events_after(session, job_id, after=after, limit=limit)


def messages(session: Session, job_id: str, *, limit: int) -> list[Event]:
    return repository.messages(session, job_id, limit=limit)


def model_id(session: Session, job: Job) -> str:
    """That its model has, or will have."""
    return fine_tuned_model_id(job, repository.project_name(session, job.project_id))


def using(session: Session, project_id: str, file_id: str, *, limit: int) -> list[Job]:
    return repository.using(session, project_id, file_id, limit=limit)


def num_using(session: Session, project_id: str, file_ids: Sequence[str]) -> dict[str, int]:
    return repository.num_using(session, project_id, file_ids)


def checkpoints(session: Session, job: Job, *, after: str | None, limit: int) -> list[Checkpoint]:
    check_cursor(after, "ftckpt_", "a checkpoint")
    return repository.checkpoints(session, job.id, after=after, limit=limit)


def delete(session: Session, project_id: str, job_id: str) -> list[str]:
    """With its events, attempts and checkpoints, never with its model; returns the prefixes of the bytes that no row names any more."""
    job, status = _locked(session, project_id, job_id)
    if status not in TERMINAL:
        raise IllegalState(f"The job is {_state(job)}; cancel it before you delete it.", code="job_not_ended")
    user = repository.live_job_from_checkpoint_of(session, job_id)
    if user is not None:
        raise IllegalState(
            f"A checkpoint of the job is used by {user}, which has not ended; cancel that one first.", code="checkpoint_in_use"
        )
    prefixes = [checkpoint.storage_prefix for checkpoint in repository.checkpoints_of(session, [job_id])[job_id]]
    repository.delete(session, job_id)
    orphans.abandon(session, [f"{prefix}/" for prefix in prefixes])  # should they not be removed now
    return prefixes


def cancel(session: Session, project_id: str, job_id: str) -> Job:
    """At once where nobody works on it; otherwise a desired state that its worker reads with the next heartbeat. Twice is once."""
    job, status = _locked(session, project_id, job_id)
    if status is JobStatus.CANCELLED or (status is JobStatus.RUNNING and job.desired == Desired.CANCEL):
        return job
    if status not in sources(JobStatus.CANCELLED):
        raise IllegalState(f"The job has already {status}; it cannot be cancelled.", code="job_already_ended")
    if status is JobStatus.RUNNING:
        return _write(session, job, "Cancellation requested; the worker stops at its next step", desired=Desired.CANCEL)
    return _write(session, job, "The job is cancelled", status=JobStatus.CANCELLED, desired=Desired.CANCEL, finished_at=now_plus())


def pause(session: Session, project_id: str, job_id: str) -> Job:
    job, status = _locked(session, project_id, job_id)
    if status not in sources(JobStatus.PAUSED) or job.desired == Desired.CANCEL:
        raise IllegalState(f"The job is {_state(job)}; it cannot be paused.", code="job_not_pausable")
    desired: dict[str, object] = {"desired": Desired.PAUSE, "paused_reason": PAUSED_BY_USER}
    if status is JobStatus.RUNNING:
        return _write(session, job, "Pause requested; the worker writes a checkpoint and stops", **desired)
    return _write(session, job, "The job is paused", status=JobStatus.PAUSED, **desired)


def resume(session: Session, project_id: str, job_id: str, settings: Settings, change: Budget | None = None) -> Job:
    """`change`: of the budget; caps that it does not name stay, null takes one away."""
    job, status = _locked(session, project_id, job_id)
    is_pausing = status is JobStatus.RUNNING and job.desired == Desired.PAUSE
    if status is not JobStatus.PAUSED and not is_pausing:
        raise IllegalState(f"The job is {_state(job)}; only a paused job can be resumed.", code="job_not_paused")
    budget = _left_of_budget(job, change)
    left = budget.model_dump(mode="json") if budget else None
    desired: dict[str, object] = {"desired": Desired.RUN, "paused_reason": None, "budget": left, "not_before": None}
    if is_pausing:
        return _write(session, job, "The pause is withdrawn", **desired)
    quotas.admit_execution(session, project_id)
    if job.recipe is not None:
        return _write(session, job, "The job is resumed and waits for a worker", status=JobStatus.QUEUED, rung_at=None, **desired)
    _write(session, job, "The job is resumed", status=JobStatus.VALIDATING_FILES, **desired)
    finish_validation(session, job, settings)  # the check may have ended meanwhile
    session.refresh(job)
    return job


def unknown_event(param: str, value: str) -> InvalidRequest:
    return InvalidRequest(f"{param}: '{value}' is not an event of this job.", param=param, code="invalid_cursor")


def _new_job(project_id: str, request: JobRequest, planned: Plan, job_id: str) -> Job:
    return Job(
        id=job_id,
        project_id=project_id,
        status=JobStatus.VALIDATING_FILES,
        desired=Desired.RUN,
        base_model_id=planned.model.id,
        base_checkpoint_id=planned.checkpoint.id if planned.checkpoint else None,
        training_file_id=planned.training.id,
        validation_file_id=planned.validation.id if planned.validation else None,
        suffix=request.suffix or None,
        requested=request.model_dump(mode="json", exclude_unset=True),
        job_metadata=request.metadata,
        budget=request.falqon.budget.model_dump(mode="json") if request.falqon.budget else None,
        priority=request.priority,
    )


def _estimated(
    session: Session, planned: Plan, settings: Settings, target: estimates.Target | None = None
) -> tuple[dict[str, object], Estimate]:
    report = planned.report
    if report is None:
        raise InvalidRequest(
            f"training_file: {planned.training.id} is still being checked; ask again when its status is 'processed'.",
            param="training_file",
            code="file_not_processed",
        )
    recipe = planned.asked.resolved(report.num_records)
    num_tokens = exact_tokens(session, planned.training.id, planned.model.id, recipe.max_seq_length)
    found = estimates.estimate_job(session, planned.model, recipe, report, settings, num_tokens=num_tokens, target=target)
    return recipe.model_dump(mode="json"), found


def _left_of_budget(job: Job, change: Budget | None) -> Budget | None:
    """With `change`, if there is some left."""
    if job.budget is None and change is None:
        return None
    changed = change.model_dump(mode="json", exclude_unset=True) if change else {}
    budget = Budget.model_validate((job.budget or {}) | changed)
    cost = (job.progress or {}).get("cost")
    if cap := budget.reached(job.execution_seconds, Decimal(cost["accrued"]) if cost else None):
        name, spent = cap.split()[0], f"{job.execution_seconds:.0f} s" + (f" and ${cost['accrued']}" if cost else "")
        raise IllegalState(
            f"falqon.budget.{name}: {cap} is used up ({spent} spent); resume with a higher cap, "
            f'{{"falqon": {{"budget": {{"{name}": …}}}}}}, or null for none.',
            param=f"falqon.budget.{name}",
            code="budget_exhausted",
        )
    return budget


def _locked(session: Session, project_id: str, job_id: str) -> tuple[Job, JobStatus]:
    job = repository.find_locked(session, project_id, job_id)
    if job is None:
        raise _unknown(job_id)
    return job, JobStatus(job.status)


def _write(session: Session, job: Job, message: str, **values: object) -> Job:
    append(session, job.id, [NewEvent(message)], guard=(Job.status == job.status,), **values)
    session.refresh(job)
    return job


def _state(job: Job) -> str:
    return "being cancelled" if job.status == JobStatus.RUNNING and job.desired == Desired.CANCEL else job.status


def _unknown(job_id: str) -> NotFound:
    return NotFound(f"Could not find fine tune: {job_id}", param="fine_tune_id", code="fine_tune_not_found")
