import re
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Body, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from obstore.exceptions import BaseError as StorageError
from pydantic import ValidationError

from app.errors import InvalidRequest
from app.http.dependencies import TOUCHES_STORAGE, After, ApiRoute, App, Reader, Services, Writer
from app.http.pagination import Page
from app.jobs import idempotency, metrics, queue_forecast, repository, service
from app.jobs.clone import overridden
from app.jobs.presenter import show, show_one
from app.jobs.repository import Filters
from app.jobs.requests import MAX_METADATA_PAIRS, JobRequest, ResumeRequest
from app.jobs.schemas import CheckpointObject, EventObject, JobDeleted, JobObject, MetricsObject, Series, event_seq
from app.models import Job, JobStatus
from falqon_core.fault_points import fault

METADATA = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)
FILTERS = {"after", "limit", "status", "model"}

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=idempotency.MAX_KEY_LENGTH,
        description="the same key and body again answer with the same job",
    ),
]
RetryCount = Annotated[int, Header(alias="x-stainless-retry-count", ge=0, include_in_schema=False)]
Limit = Annotated[int, Query(ge=1, le=1000)]

log = structlog.get_logger()
router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"], route_class=ApiRoute)


@router.post("")
def create_job(
    app: App, caller: Writer, body: JobRequest, dry_run: bool = False, idempotency_key: IdempotencyKey = None, retry_count: RetryCount = 0
) -> JobObject:
    """With `dry_run` nothing is written: the answer is the job as it would be, with its estimate."""
    if dry_run:
        with app.database.read() as session:
            job = service.preview(session, caller.project_id, body, app.settings)
            return JobObject.of(
                job, queue=queue_forecast.place_of_new(session, app.settings, caller.project_id, body.priority), dry_run=True
            )
    asking = idempotency.Request(caller, "create", body.model_dump(mode="json", exclude_unset=True), idempotency_key, retry_count)
    with app.database.transaction() as session:
        job = service.create_once(session, asking, body, app.settings)
        shown = show_one(session, app.settings, job)
        fault("before_submit_commit")
    fault("after_submit_commit")
    _ring(app, job)
    fault("after_ring")
    return shown


@router.get("")
def list_jobs(
    app: App,
    caller: Reader,
    request: Request,
    after: After = None,
    limit: Limit = 20,
    status: JobStatus | None = None,
    model: str | None = None,
) -> Page[JobObject]:
    """Newest first. `model` is the base model; `metadata[key]=value` filters, several at once; `metadata=null` finds jobs without any."""
    filters = Filters(status, model, _metadata_filter(request))
    with app.database.read() as session:
        jobs = service.page(session, caller.project_id, filters, after=after, limit=limit)
        return Page[JobObject].of(show(session, app.settings, jobs), limit)


@router.get("/{job_id}")
def retrieve_job(app: App, caller: Reader, job_id: str) -> JobObject:
    with app.database.read() as session:
        return show_one(session, app.settings, service.get(session, caller.project_id, job_id))


@router.delete("/{job_id}", dependencies=TOUCHES_STORAGE)
def delete_job(app: App, caller: Writer, job_id: str) -> JobDeleted:
    """Only a job that has ended. Its events and checkpoints go with it; its fine-tuned model stays, with a delete call of its own."""
    with app.database.transaction() as session:
        prefixes = service.delete(session, caller.project_id, job_id)
    for prefix in prefixes:
        _remove(app, prefix)
    return JobDeleted(id=job_id)


@router.post("/{job_id}/clone")
def clone_job(
    app: App,
    caller: Writer,
    job_id: str,
    overrides: Annotated[
        dict[str, Any] | None, Body(description="any field of a new job; objects are merged, null takes a field away")
    ] = None,
    idempotency_key: IdempotencyKey = None,
    retry_count: RetryCount = 0,
) -> JobObject:
    """A new job that asks for what this one asked for, except for what the body says."""
    asking = idempotency.Request(caller, f"clone {job_id}", overrides or {}, idempotency_key, retry_count)
    with app.database.transaction() as session:
        original = service.get(session, caller.project_id, job_id)
        try:
            body = overridden(original.requested, overrides or {})
        except ValidationError as error:
            raise RequestValidationError([fault | {"loc": ("body", *fault["loc"])} for fault in error.errors()]) from None
        job = service.create_once(session, asking, body, app.settings)
        shown = show_one(session, app.settings, job)
    _ring(app, job)
    return shown


@router.post("/{job_id}/cancel")
def cancel_job(app: App, caller: Writer, job_id: str) -> JobObject:
    with app.database.transaction() as session:
        return show_one(session, app.settings, service.cancel(session, caller.project_id, job_id))


@router.post("/{job_id}/pause")
def pause_job(app: App, caller: Writer, job_id: str) -> JobObject:
    with app.database.transaction() as session:
        return show_one(session, app.settings, service.pause(session, caller.project_id, job_id))


@router.post("/{job_id}/resume")
def resume_job(app: App, caller: Writer, job_id: str, body: ResumeRequest | None = None) -> JobObject:
    """A job whose budget is used up continues only with a higher one, which the body may bring."""
    change = body.falqon.budget if body else None
    with app.database.transaction() as session:
        job = service.resume(session, caller.project_id, job_id, app.settings, change)
        shown = show_one(session, app.settings, job)
    _ring(app, job)
    return shown


@router.get("/{job_id}/events")
def list_events(app: App, caller: Reader, job_id: str, after: After = None, limit: Limit = 20) -> Page[EventObject]:
    """Newest first."""
    with app.database.read() as session:
        job = service.get(session, caller.project_id, job_id)
        before = None if after is None else event_seq(job_id, after)
        if after is not None and (before is None or not 1 <= before <= job.last_event_seq):
            raise service.unknown_event("after", after)
        events = repository.events_before(session, job_id, before=before, limit=limit)
    return Page[EventObject].of([EventObject.of(event) for event in events], limit)


@router.get("/{job_id}/checkpoints")
def list_checkpoints(app: App, caller: Reader, job_id: str, after: After = None, limit: Limit = 10) -> Page[CheckpointObject]:
    """Newest first."""
    with app.database.read() as session:
        job = service.get(session, caller.project_id, job_id)
        checkpoints = service.checkpoints(session, job, after=after, limit=limit)
        model_id = service.model_id(session, job)
    return Page[CheckpointObject].of([CheckpointObject.of(checkpoint, model_id) for checkpoint in checkpoints], limit)


@router.get("/{job_id}/metrics", responses={200: {"content": {"text/csv": {}}}}, response_model=MetricsObject)
def retrieve_metrics(
    app: App,
    caller: Reader,
    job_id: str,
    keys: Annotated[str | None, Query(description="comma-separated; all when left out")] = None,
    points: Annotated[int, Query(ge=2, le=metrics.MAX_POINTS, description="most points of each series")] = 500,
    format: Annotated[Literal["json", "csv"] | None, Query(description="csv: as with `Accept: text/csv`")] = None,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> Any:
    """Series of the values that training reported. A longer one keeps the lowest and the highest value of each stretch of steps."""
    wanted = metrics.KEYS if keys is None else [key.strip() for key in keys.split(",")]
    if unknown := sorted(set(wanted) - set(metrics.KEYS)):
        raise InvalidRequest(f"keys: there is no metric '{unknown[0]}'; there are {', '.join(metrics.KEYS)}.", param="keys")
    with app.database.read() as session:
        found = metrics.series(session, service.get(session, caller.project_id, job_id), wanted, points)
    if keys is None:
        found = {key: series for key, series in found.items() if series}
    if format == "csv" or (format is None and "text/csv" in accept):
        return Response(metrics.as_csv(found), media_type="text/csv")
    series = {key: Series(steps=[step for step, _ in one], values=[value for _, value in one]) for key, one in found.items()}
    return MetricsObject(fine_tuning_job_id=job_id, series=series)


def _ring(app: Services, job: Job) -> None:
    if job.status == JobStatus.QUEUED:
        app.notifier.notify_job(job.id)


def _remove(app: Services, prefix: str) -> None:
    try:
        if stored := app.storage.keys(prefix):
            app.storage.delete(*stored)
    except (OSError, StorageError) as error:  # no row names these bytes any more; they take space and harm nobody
        log.warning("bytes of a deleted job not removed", prefix=prefix, error=str(error))


def _metadata_filter(request: Request) -> dict[str, str] | None:
    wanted: dict[str, str] = {}
    nothing = False
    for name, value in request.query_params.multi_items():
        if match := METADATA.fullmatch(name):
            wanted[match[1]] = value
        elif name == "metadata" and value == "null":
            nothing = True
        elif name.startswith("metadata"):
            raise InvalidRequest("metadata: filter with metadata[key]=value, or metadata=null for jobs without.", param="metadata")
        elif name not in FILTERS:
            raise InvalidRequest(f"{name}: jobs are not filtered by it.", param=name, code="unknown_parameter")
    if len(wanted) > MAX_METADATA_PAIRS:
        message = f"metadata: a job has at most {MAX_METADATA_PAIRS} pairs; filter by no more of them."
        raise InvalidRequest(message, param="metadata")
    if nothing and wanted:
        raise InvalidRequest("metadata: metadata=null and metadata[key]=value exclude each other.", param="metadata")
    return None if nothing else wanted
