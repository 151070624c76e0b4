"""Outcome of a job's validation once its files are checked. Free of the web framework: the worker
records it after a check.
"""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.base.database import now_plus
from app.base.errors import BytesMissing, InvalidRequest
from app.base.settings import Settings
from app.jobs import repository
from app.jobs.budget_warnings import warn_of_budget
from app.jobs.events import NewEvent, append
from app.jobs.requests import resolve_recipe
from app.jobs.resolution import FilePlan, check_held_out, incompatibility, resolve_job
from app.models import FileStatus, Job, JobStatus, Model


def finish_validation(session: Session, job: Job, settings: Settings) -> JobStatus:
    """Make the locked job `queued` with its recipe resolved, or `failed` by its data, or leave it
    while a check is still to come.
    """
    files = repository.files_of(session, job)
    for param, file in files.items():
        if file.status == FileStatus.ERROR:
            # There is no report of a file that could not be read.
            code = f"invalid_{param}" if file.report is not None else BytesMissing.code
            reason = f"{param} is not valid: {file.filename}: {file.status_details}"
            return _fail(session, job, param, reason, code)
    if any(file.status != FileStatus.PROCESSED for file in files.values()):
        return JobStatus(job.status)
    try:
        requested = resolve_recipe(job.requested)
    except InvalidRequest as error:  # accepted before there was such a rule
        return _fail(session, job, error.param, error.message, error.code)
    for param, file in files.items():
        if mismatch := incompatibility(file, requested.recipe):
            reason = f"{param} is not valid: {mismatch}"
            return _fail(session, job, param, reason, f"invalid_{param}")
    plan = FilePlan(
        project_id=job.project_id,
        request=job.requested,
        requested=requested,
        model=session.get_one(Model, job.base_model_id),
        checkpoint=None,
        num_gpus=job.num_gpus,
        training=files["training_file"],
        validation=files.get("validation_file"),
    )
    try:
        check_held_out(plan)
    except InvalidRequest as error:
        return _fail(session, job, error.param, error.message, error.code)
    return queue_validated(session, job, settings, plan)


def queue_validated(
    session: Session,
    job: Job,
    settings: Settings,
    plan: FilePlan,
    prior_events: Sequence[NewEvent] = (),
) -> JobStatus:
    """Make the locked job `queued` with the recipe and the estimate of its plan, whose files have
    passed their checks.

    `prior_events`: events that come before its own, written together with them.
    """
    resolved = resolve_job(session, settings, plan)
    report = plan.training.report
    assert report is not None, "a processed file has a report"
    estimate = resolved.estimate
    num_checked = estimate.num_validation_records
    valid = NewEvent(
        f"Files are valid: {estimate.num_records} records to train, {num_checked} to check; "
        "the job waits for a worker",
        data={
            "num_records": report.num_records,
            "num_validation_records": num_checked,
            "steps": estimate.steps,
        },
    )
    warnings = [
        NewEvent(each.text, level="warn", data={"code": each.code, "param": each.param})
        for each in warn_of_budget(job.budget, estimate)
    ]
    if resolved.unused_fields:
        data = {"code": "unused_fields", "param": "training_file"}
        warnings.append(NewEvent(resolved.unused_fields, level="warn", data=data))
    append(
        session,
        job.id,
        [*prior_events, valid, *warnings],
        guard=(Job.status == JobStatus.VALIDATING_FILES,),
        status=JobStatus.QUEUED,
        recipe=resolved.recipe,
        estimate=resolved.estimate,
        num_gpus=resolved.num_gpus,
    )
    return JobStatus.QUEUED


def _fail(
    session: Session, job: Job, param: str | None, reason: str, code: str | None
) -> JobStatus:
    append(
        session,
        job.id,
        [NewEvent(reason, level="error")],
        guard=(Job.status == JobStatus.VALIDATING_FILES,),
        status=JobStatus.FAILED,
        finished_at=now_plus(),
        error_code=code,
        error_message=reason,
        error_param=param,
    )
    return JobStatus.FAILED
