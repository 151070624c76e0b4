"""What becomes of a job once its files are checked. Free of the web framework: the worker settles
after a check.
"""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.base.database import now_plus
from app.base.errors import BytesMissing, InvalidRequest
from app.base.settings import Settings
from app.dataset_statistics.service import exact_amount
from app.estimates import service as estimates
from app.files.unused import unused_fields
from app.jobs import repository
from app.jobs.events import NewEvent, append
from app.jobs.gpus import limit_auto
from app.jobs.requests import resolve_recipe
from app.models import File, FileStatus, Job, JobStatus, Model
from app.models.falqon_options import Budget
from falqon_core.contract.config import Recipe
from falqon_core.estimate.estimate import Estimate
from falqon_core.records.shapes import wrong_kind


def finish_validation(
    session: Session, job: Job, settings: Settings, prior_events: Sequence[NewEvent] = ()
) -> JobStatus:
    """Make the locked job `queued` with its recipe resolved, or `failed` by its data, or leave it
    while a check is still to come.

    `prior_events`: events that come before its own, written together with them.
    """
    files = repository.files_of(session, job)
    for param, file in files.items():
        if file.status == FileStatus.ERROR:
            # Of what nobody could read there is no report.
            code = f"invalid_{param}" if file.report is not None else BytesMissing.code
            reason = f"{param} is not valid: {file.filename}: {file.status_details}"
            return _fail(session, job, prior_events, param, reason, code)
    if any(file.status != FileStatus.PROCESSED for file in files.values()):
        if prior_events:
            append(session, job.id, prior_events)
        return JobStatus(job.status)
    try:
        requested = resolve_recipe(job.requested)
    except InvalidRequest as error:  # accepted before there was such a rule
        return _fail(session, job, prior_events, error.param, error.message, error.code)
    for param, file in files.items():
        if mismatch := incompatibility(file, requested.recipe):
            reason = f"{param} is not valid: {mismatch}"
            return _fail(session, job, prior_events, param, reason, f"invalid_{param}")
    report = files["training_file"].report
    assert report is not None, "a processed file has a report"
    recipe = requested.resolved(report.num_records)
    model = session.get_one(Model, job.base_model_id)
    amount = exact_amount(session, job.training_file_id, model.id, recipe)
    num_gpus = limit_auto(job.num_gpus, job.requested, recipe)
    estimate = estimates.estimate_job(
        session,
        model,
        recipe,
        report,
        settings,
        project_id=job.project_id,
        amount=amount,
        gpu=job.gpu,
        num_gpus=num_gpus,
    )
    valid = NewEvent(
        "Files are valid; the job waits for a worker",
        data={"num_records": report.num_records, "steps": estimate.steps},
    )
    warnings = _budget_warning(job, estimate)
    if unused := unused_fields(session, files["training_file"]):
        estimate = estimate.model_copy(update={"warnings": [*estimate.warnings, unused]})
        data = {"code": "unused_fields", "param": "training_file"}
        warnings.append(NewEvent(unused, level="warn", data=data))
    append(
        session,
        job.id,
        [*prior_events, valid, *warnings],
        guard=(Job.status == JobStatus.VALIDATING_FILES,),
        status=JobStatus.QUEUED,
        recipe=recipe,
        estimate=estimate,
        num_gpus=num_gpus,
    )
    return JobStatus.QUEUED


def incompatibility(file: File, recipe: Recipe) -> str | None:
    """Return why a file that passed its check cannot train with this recipe; None when it can."""
    report = file.report
    assert report is not None, "a processed file has a report"
    reason = report.too_bad(recipe.max_bad_record_fraction) or (
        wrong_kind(report.shape, recipe.objective) if report.shape else None
    )
    return f"{file.filename}: {reason}" if reason else None


def _budget_warning(job: Job, estimate: Estimate) -> list[NewEvent]:
    """Warn only: estimates err, and a job loses nothing at its cap."""
    warnings = []
    budget = job.budget or Budget()
    if estimate.cost.is_unpriced and budget.max_cost_usd is not None:
        unpriced = (
            f"The budget in dollars stops nothing on {estimate.device}, which has no price: set "
            "one under Settings, Prices, or limit the seconds"
        )
        data = {"code": "budget_unpriced", "param": "falqon.budget.max_cost_usd"}
        warnings.append(NewEvent(unpriced, level="warn", data=data))
    cap = budget.reached(estimate.seconds.low, estimate.cost.low)
    if cap is None:
        return warnings
    at_best = f"{estimate.seconds.low:.0f} s and ${estimate.cost.low}"
    text = (
        f"The budget is less than this job is estimated to take at best ({at_best}); "
        f"it will pause at {cap}"
    )
    data = {"code": "budget_below_estimate", "param": f"falqon.budget.{cap.split()[0]}"}
    return [*warnings, NewEvent(text, level="warn", data=data)]


def _fail(
    session: Session,
    job: Job,
    prior_events: Sequence[NewEvent],
    param: str | None,
    reason: str,
    code: str | None,
) -> JobStatus:
    append(
        session,
        job.id,
        [*prior_events, NewEvent(reason, level="error")],
        guard=(Job.status == JobStatus.VALIDATING_FILES,),
        status=JobStatus.FAILED,
        finished_at=now_plus(),
        error_code=code,
        error_message=reason,
        error_param=param,
    )
    return JobStatus.FAILED
