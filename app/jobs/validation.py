"""What becomes of a job once its files are checked. Free of the web framework: the worker settles after a check."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.database import now_plus
from app.errors import BytesMissing
from app.estimates import service as estimates
from app.inspections.repository import exact_tokens
from app.jobs import repository
from app.jobs.events import NewEvent, append
from app.jobs.falqon_options import Budget
from app.jobs.requests import JobRequest, asked
from app.models import File, FileStatus, Job, JobStatus, Model
from app.settings import Settings
from falqon_core.contract.config import Recipe
from falqon_core.estimate.estimate import Estimate
from falqon_core.records.file_check import FileReport
from falqon_core.records.shapes import wrong_kind


def finish_validation(session: Session, job: Job, settings: Settings, prior_events: Sequence[NewEvent] = ()) -> JobStatus:
    """`queued` with its recipe resolved, or `failed` by its data, or unchanged while a check is still to come. The job is locked.

    `prior_events`: events that come before its own, written together with them.
    """
    files = repository.files_of(session, job)
    for param, file in files.items():
        if file.status == FileStatus.ERROR:
            code = f"invalid_{param}" if file.report is not None else BytesMissing.code  # of what nobody could read there is no report
            return _fail(session, job, prior_events, param, f"{file.filename}: {file.status_details}", code)
    if any(file.status != FileStatus.PROCESSED for file in files.values()):
        if prior_events:
            append(session, job.id, prior_events)
        return JobStatus(job.status)
    wanted = asked(JobRequest.model_validate(job.requested))
    for param, file in files.items():
        if reason := incompatibility(file, wanted.recipe):
            return _fail(session, job, prior_events, param, reason, f"invalid_{param}")
    report = FileReport.model_validate(files["training_file"].report)
    recipe = wanted.resolved(report.num_records)
    model = session.get_one(Model, job.base_model_id)
    num_tokens = exact_tokens(session, job.training_file_id, model.id, recipe.max_seq_length)
    estimate = estimates.estimate_job(session, model, recipe, report, settings, num_tokens=num_tokens)
    valid = NewEvent("Files are valid; the job waits for a worker", data={"num_records": report.num_records, "steps": estimate.steps})
    append(
        session,
        job.id,
        [*prior_events, valid, *_budget_warning(job, estimate)],
        guard=(Job.status == JobStatus.VALIDATING_FILES,),
        status=JobStatus.QUEUED,
        recipe=recipe.model_dump(mode="json"),
        estimate=estimate.model_dump(mode="json"),
    )
    return JobStatus.QUEUED


def incompatibility(file: File, recipe: Recipe) -> str | None:
    """Why a file that passed its check cannot train with this recipe; None when it can."""
    report = FileReport.model_validate(file.report)
    reason = report.too_bad(recipe.max_bad_record_fraction) or (wrong_kind(report.shape, recipe.method) if report.shape else None)
    return f"{file.filename}: {reason}" if reason else None


def _budget_warning(job: Job, estimate: Estimate) -> list[NewEvent]:
    """A job that may well hit its cap is accepted: estimates err, and at the cap it loses nothing."""
    budget = Budget.model_validate(job.budget or {})
    cap = budget.reached(estimate.seconds.low, estimate.cost.low)
    if cap is None:
        return []
    at_best = f"{estimate.seconds.low:.0f} s and ${estimate.cost.low}"
    text = f"The budget is less than this job is estimated to take at best ({at_best}); it will pause at {cap}"
    return [NewEvent(text, level="warn", data={"code": "budget_below_estimate", "param": f"falqon.budget.{cap.split()[0]}"})]


def _fail(session: Session, job: Job, prior_events: Sequence[NewEvent], param: str, reason: str, code: str) -> JobStatus:
    message = f"{param} is not valid: {reason}"
    append(
        session,
        job.id,
        [*prior_events, NewEvent(message, level="error")],
        guard=(Job.status == JobStatus.VALIDATING_FILES,),
        status=JobStatus.FAILED,
        finished_at=now_plus(),
        error_code=code,
        error_message=message,
        error_param=param,
    )
    return JobStatus.FAILED
