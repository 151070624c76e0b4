import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Header, Query, Request, Response

from app.base.errors import InvalidRequest
from app.http.dependencies import (
    TOUCHES_STORAGE,
    After,
    Agent,
    IdempotencyKey,
    InstallationAdmin,
    Reader,
    RetryCount,
    ServicesDep,
    Writer,
)
from app.http.pagination import Page
from app.http.routes import ApiRoute
from app.jobs import metrics, metrics_csv, requeue, service
from app.jobs.requests import JobFilters, ResumeRequest, UpdateRequest
from app.jobs.requeue import Requeued
from app.jobs.schemas import (
    CheckpointObject,
    EventObject,
    JobDeleted,
    JobObject,
    LogObject,
    MetricsObject,
)
from app.models import JobStatus
from app.models.job_request import MAX_METADATA_PAIRS, JobRequest

METADATA_PARAMETER = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)
OTHER_PARAMETERS = {"after", "limit", "status", "model"}
# The names are the user's own, which no signature can hold.
METADATA_FILTER = {
    "name": "metadata",
    "in": "query",
    "required": False,
    "description": "`metadata[key]=value`; or `metadata=null`",
    "style": "deepObject",
    "explode": True,
    "schema": {
        "type": "object",
        "maxProperties": MAX_METADATA_PAIRS,
        "propertyNames": {"minLength": 1, "maxLength": 64},
        "additionalProperties": {"type": "string"},
    },
}

Limit = Annotated[int, Query(ge=1, le=1000)]

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"], route_class=ApiRoute)


@router.post("")
def create_job(
    services: ServicesDep,
    caller: Agent,
    body: JobRequest,
    dry_run: bool = False,
    idempotency_key: IdempotencyKey = None,
    retry_count: RetryCount = 0,
) -> JobObject:
    """Create a job. Nothing is written with `dry_run`: the response is the job as it would be
    created, and its estimate.
    """
    if dry_run:
        return service.preview_job(services, caller, body)
    return service.create_job(
        services, caller, body, idempotency_key=idempotency_key, retry_count=retry_count
    )


@router.get("", openapi_extra={"parameters": [METADATA_FILTER]})
def list_jobs(
    services: ServicesDep,
    caller: Reader,
    request: Request,
    after: After = None,
    limit: Limit = 20,
    status: JobStatus | None = None,
    model: str | None = None,
) -> Page[JobObject]:
    """List jobs, newest first. `model` is the base model; `metadata[key]=value` filters, several at
    once; `metadata=null` finds jobs without any.
    """
    filters = JobFilters(status, model, _parse_metadata_filter(request))
    return service.list_jobs(services, caller, filters, after=after, limit=limit)


@router.get("/{job_id}")
def retrieve_job(services: ServicesDep, caller: Reader, job_id: str) -> JobObject:
    return service.retrieve_job(services, caller, job_id)


@router.post("/{job_id}")
def update_job(
    services: ServicesDep, caller: Writer, job_id: str, body: UpdateRequest
) -> JobObject:
    """Change the metadata of a job, in any state. The pairs `title` and `note` are its name and its
    note on the dashboard.
    """
    return service.update_job(services, caller, job_id, body.metadata)


@router.delete("/{job_id}", dependencies=TOUCHES_STORAGE)
def delete_job(services: ServicesDep, caller: Writer, job_id: str) -> JobDeleted:
    """Delete a job that has ended. Its events and checkpoints go with it; its fine-tuned model
    stays, and has a delete call of its own.
    """
    return service.delete_job(services, caller, job_id)


@router.post("/{job_id}/clone")
def clone_job(
    services: ServicesDep,
    caller: Writer,
    job_id: str,
    overrides: Annotated[
        dict[str, Any] | None,
        Body(description="any field of a new job; objects are merged, null removes a field"),
    ] = None,
    idempotency_key: IdempotencyKey = None,
    retry_count: RetryCount = 0,
) -> JobObject:
    """Create a job with the same request as this one, except for the changes in the body."""
    return service.clone_job(
        services,
        caller,
        job_id,
        overrides or {},
        idempotency_key=idempotency_key,
        retry_count=retry_count,
    )


@router.post("/{job_id}/cancel")
def cancel_job(services: ServicesDep, caller: Writer, job_id: str) -> JobObject:
    return service.cancel_job(services, caller, job_id)


@router.post("/{job_id}/requeue")
def requeue_job(services: ServicesDep, caller: InstallationAdmin, job_id: str) -> Requeued:
    """Take a running job from a worker that makes no progress, or let one that waits after lost
    attempts start at once.
    """
    return requeue.requeue_job(services, caller, job_id)


@router.post("/{job_id}/pause")
def pause_job(services: ServicesDep, caller: Writer, job_id: str) -> JobObject:
    return service.pause_job(services, caller, job_id)


@router.post("/{job_id}/resume")
def resume_job(
    services: ServicesDep, caller: Writer, job_id: str, body: ResumeRequest | None = None
) -> JobObject:
    """Resume a job. A job whose budget is used up continues only with a higher one, which the body
    may bring.
    """
    return service.resume_job(services, caller, job_id, body.falqon.budget if body else None)


@router.get("/{job_id}/events")
def list_events(
    services: ServicesDep, caller: Reader, job_id: str, after: After = None, limit: Limit = 20
) -> Page[EventObject]:
    """List events, newest first."""
    return service.list_events(services, caller, job_id, after=after, limit=limit)


@router.get("/{job_id}/checkpoints")
def list_checkpoints(
    services: ServicesDep, caller: Reader, job_id: str, after: After = None, limit: Limit = 10
) -> Page[CheckpointObject]:
    """List them, newest first."""
    return service.list_checkpoints(services, caller, job_id, after=after, limit=limit)


@router.get(
    "/{job_id}/metrics",
    responses={200: {"content": {"text/csv": {}}}},
    response_model=MetricsObject,
)
def retrieve_metrics(
    services: ServicesDep,
    caller: Reader,
    job_id: str,
    keys: Annotated[str | None, Query(description="comma-separated; all when left out")] = None,
    points: Annotated[
        int, Query(ge=2, le=metrics.MAX_POINTS, description="most points of each series")
    ] = 500,
    format: Annotated[
        Literal["json", "csv"] | None, Query(description="csv: as with `Accept: text/csv`")
    ] = None,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> Any:
    """Return series of the reported values. A longer one keeps the lowest and the highest value of
    each stretch of steps.
    """
    series = service.read_metrics(services, caller, job_id, _parse_keys(keys), points)
    if format == "csv" or (format is None and "text/csv" in accept):
        content = b"".join(metrics_csv.write_series(series))
        return Response(content, media_type="text/csv")
    return MetricsObject.of(job_id, series)


@router.get(
    "/{job_id}/logs",
    responses={200: {"content": {"text/plain": {}}}},
    response_model=LogObject,
    dependencies=TOUCHES_STORAGE,
)
def retrieve_log(
    services: ServicesDep,
    caller: Reader,
    job_id: str,
    attempt: Annotated[
        int | None, Query(ge=1, lt=2**31, description="the newest that has a log when left out")
    ] = None,
    after: Annotated[
        int | None, Query(ge=1, lt=2**62, description="bytes of the log that are left out")
    ] = None,
    format: Annotated[
        Literal["json", "text"] | None, Query(description="text: as with `Accept: text/plain`")
    ] = None,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> Any:
    """Return the trainer's output beside its messages, also while the attempt runs. A log keeps its
    first 64 KiB and its newest 1 MiB.
    """
    log = service.read_log(services, caller, job_id, attempt, after or 0)
    if format == "text" or (format is None and "text/plain" in accept):
        return Response(log.text, media_type="text/plain")
    return log


def _parse_keys(text: str | None) -> list[str] | None:
    if text is None:
        return None
    keys = [key.strip() for key in text.split(",")]
    if unknown := sorted(set(keys) - set(metrics.KEYS)):
        raise InvalidRequest(
            f"keys: there is no metric '{unknown[0]}'; there are {', '.join(metrics.KEYS)}.",
            param="keys",
        )
    return keys


def _parse_metadata_filter(request: Request) -> dict[str, str] | None:
    """Return the pairs to filter by; None for jobs without any metadata."""
    pairs: dict[str, str] = {}
    is_null = False
    for name, value in request.query_params.multi_items():
        if match := METADATA_PARAMETER.fullmatch(name):
            pairs[match[1]] = value
        elif name == "metadata" and value == "null":
            is_null = True
        elif name.startswith("metadata"):
            raise InvalidRequest(
                "metadata: filter with metadata[key]=value, or metadata=null for jobs without.",
                param="metadata",
            )
        elif name not in OTHER_PARAMETERS:
            raise InvalidRequest(
                f"{name}: jobs are not filtered by it.", param=name, code="unknown_parameter"
            )
    if len(pairs) > MAX_METADATA_PAIRS:
        raise InvalidRequest(
            f"metadata: a job has at most {MAX_METADATA_PAIRS} pairs; filter by no more of them.",
            param="metadata",
        )
    if is_null and pairs:
        raise InvalidRequest(
            "metadata: metadata=null and metadata[key]=value exclude each other.", param="metadata"
        )
    return None if is_null else pairs
