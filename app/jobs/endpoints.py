import re
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request
from sqlalchemy.orm import Session

from app.catalogue.naming import fine_tuned_model_id
from app.dependencies import After, ApiRoute, App, Reader, Services, Writer
from app.errors import InvalidRequest
from app.jobs import queue, repository, service
from app.jobs.repository import Filters
from app.jobs.requests import JobRequest, ResumeRequest
from app.jobs.schemas import CheckpointObject, EventObject, JobObject, event_seq
from app.models import Job, JobStatus
from app.pagination import Page

METADATA = re.compile(r"metadata\[([^\"\\]{1,64})\]")

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"], route_class=ApiRoute)


@router.post("")
def create_job(app: App, caller: Writer, body: JobRequest, dry_run: bool = False) -> JobObject:
    """With `dry_run` nothing is written: the answer is the job as it would be, with its estimate."""
    if dry_run:
        with app.database.read() as session:
            job = service.preview(session, caller.project_id, body, app.settings)
            return JobObject.of(job, queue=queue.look(session, app.settings), dry_run=True)
    with app.database.transaction() as session:
        job = service.create(session, caller.project_id, body, app.settings)
        (shown,) = _shown(app, session, [job])
    _ring(app, job)
    return shown


@router.get("")
def list_jobs(
    app: App,
    caller: Reader,
    request: Request,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    status: JobStatus | None = None,
    model: str | None = None,
) -> Page[JobObject]:
    """Newest first. `metadata[key]=value` filters, `metadata=null` finds jobs without any."""
    filters = Filters(status, model, _metadata_filter(request))
    with app.database.read() as session:
        jobs = repository.newest_first(session, caller.project_id, filters, after=after, limit=limit)
        return Page[JobObject].of(_shown(app, session, jobs), limit)


@router.get("/{job_id}")
def retrieve_job(app: App, caller: Reader, job_id: str) -> JobObject:
    with app.database.read() as session:
        return _shown(app, session, [service.get(session, caller.project_id, job_id)])[0]


@router.post("/{job_id}/cancel")
def cancel_job(app: App, caller: Writer, job_id: str) -> JobObject:
    with app.database.transaction() as session:
        return _shown(app, session, [service.cancel(session, caller.project_id, job_id)])[0]


@router.post("/{job_id}/pause")
def pause_job(app: App, caller: Writer, job_id: str) -> JobObject:
    with app.database.transaction() as session:
        return _shown(app, session, [service.pause(session, caller.project_id, job_id)])[0]


@router.post("/{job_id}/resume")
def resume_job(app: App, caller: Writer, job_id: str, body: ResumeRequest | None = None) -> JobObject:
    """A job whose budget is used up continues only with a higher one, which the body may bring."""
    change = body.falqon.budget if body else None
    with app.database.transaction() as session:
        job = service.resume(session, caller.project_id, job_id, app.settings, change)
        (shown,) = _shown(app, session, [job])
    _ring(app, job)
    return shown


@router.get("/{job_id}/events")
def list_events(
    app: App, caller: Reader, job_id: str, after: After = None, limit: Annotated[int, Query(ge=1, le=1000)] = 20
) -> Page[EventObject]:
    """Newest first."""
    before = None if after is None else event_seq(job_id, after)
    if after is not None and before is None:
        raise service.unknown_event("after", after)
    with app.database.read() as session:
        service.get(session, caller.project_id, job_id)
        events = repository.events_before(session, job_id, before=before, limit=limit)
    return Page[EventObject].of([EventObject.of(event) for event in events], limit)


@router.get("/{job_id}/checkpoints")
def list_checkpoints(
    app: App, caller: Reader, job_id: str, after: After = None, limit: Annotated[int, Query(ge=1, le=1000)] = 10
) -> Page[CheckpointObject]:
    """Newest first."""
    with app.database.read() as session:
        job = service.get(session, caller.project_id, job_id)
        model_id = fine_tuned_model_id(job, repository.project_name(session, job.project_id))
        checkpoints = repository.checkpoints(session, job_id, after=after, limit=limit)
    return Page[CheckpointObject].of([CheckpointObject.of(checkpoint, model_id) for checkpoint in checkpoints], limit)


def _shown(app: Services, session: Session, jobs: Sequence[Job]) -> list[JobObject]:
    attempts = repository.attempts(session, [job.id for job in jobs])
    line = queue.look(session, app.settings) if any(job.status == JobStatus.QUEUED for job in jobs) else None
    return [JobObject.of(job, attempts[job.id], queue=line) for job in jobs]


def _ring(app: Services, job: Job) -> None:
    if job.status == JobStatus.QUEUED:
        app.bell.ring_job(job.id)


def _metadata_filter(request: Request) -> dict[str, str] | None:
    wanted, nothing = {}, False
    for name, value in request.query_params.multi_items():
        if match := METADATA.fullmatch(name):
            wanted[match[1]] = value
        elif name == "metadata" and value == "null":
            nothing = True
        elif name.startswith("metadata"):
            raise InvalidRequest("metadata: filter with metadata[key]=value, or metadata=null for jobs without.", param="metadata")
    if nothing and wanted:
        raise InvalidRequest("metadata: metadata=null and metadata[key]=value exclude each other.", param="metadata")
    return None if nothing else wanted
