"""Use cases of jobs, each of which notifies after its commit, and parts for other packages."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog
from obstore.exceptions import BaseError as StorageError
from pydantic import ValidationError

from app.aliases import service as aliases
from app.auth import audit
from app.auth.caller import Caller
from app.base.errors import BytesMissing, refusal_of
from app.base.storage import keys
from app.estimates import service as estimates
from app.http.pagination import Page, check_cursor
from app.jobs import (
    creation,
    idempotency,
    metadata,
    metrics,
    metrics_csv,
    queue_forecast,
    repository,
    transitions,
)
from app.jobs.base_model import began_from
from app.jobs.clone import merge_overrides
from app.jobs.estimate_schemas import DeviceObject, EstimateObject, GpusObject
from app.jobs.lookup import attempt_with_log as attempt_with_log
from app.jobs.lookup import checkpoints as checkpoints
from app.jobs.lookup import get as get
from app.jobs.lookup import model_id as model_id
from app.jobs.lookup import unknown_event as unknown_event
from app.jobs.presenter import to_object, to_objects
from app.jobs.repository import events_after as events_after
from app.jobs.repository import list_of_studies as list_of_studies
from app.jobs.repository import list_using as list_using
from app.jobs.repository import messages as messages
from app.jobs.repository import num_using as num_using
from app.jobs.repository import present as present
from app.jobs.repository import verdicts as verdicts
from app.jobs.requests import JobFilters
from app.jobs.schemas import (
    CheckpointObject,
    EventObject,
    JobDeleted,
    JobObject,
    LogObject,
    event_seq,
)
from app.models import Job, JobStatus
from app.models.falqon_options import Budget
from app.models.job_request import JobRequest
from app.models.trainer_log import TrainerLog
from app.services import Services
from falqon_core.fault_points import fault

log = structlog.get_logger()


def create_job(
    services: Services,
    caller: Caller,
    request: JobRequest,
    *,
    idempotency_key: str | None = None,
    retry_count: int = 0,
) -> JobObject:
    """Create a job, or return the one that the same request has created before."""
    body = request.model_dump(mode="json", exclude_unset=True)
    submission = idempotency.SubmissionRequest(caller, "create", body, idempotency_key, retry_count)
    with services.database.transaction() as session:
        job = creation.create_once(session, submission, request, services.settings)
        created = to_object(session, services.settings, job)
        fault("before_submit_commit")
    fault("after_submit_commit")
    _notify_if_queued(services, job)
    fault("after_notify")
    return created


def preview_job(services: Services, caller: Caller, request: JobRequest) -> JobObject:
    """Return the job as it would be created, with its estimate; nothing is written."""
    with services.database.read() as session:
        job = creation.preview(session, caller.project_id, request, services.settings)
        position = queue_forecast.position_of_new_job(
            session, services.settings, caller.project_id, request
        )
        return JobObject.of(job, began_from(session, job), queue=position, dry_run=True)


def estimate_job(
    services: Services,
    caller: Caller,
    request: JobRequest,
    device: str | None = None,
    num_devices: int = 1,
) -> EstimateObject:
    """Estimate a job, on `device` or else on what this service trains on."""
    target = None if device is None else estimates.target_named(device, num_devices)
    with services.database.read() as session:
        estimate, by_num_gpus, by_device = creation.estimate(
            session, caller.project_id, request, services.settings, target
        )
        position = queue_forecast.position_of_new_job(
            session, services.settings, caller.project_id, request
        )
    return EstimateObject(
        **dict(estimate),
        queue=position,
        by_num_gpus=[GpusObject(**dict(each)) for each in by_num_gpus],
        by_device=[DeviceObject(**dict(each)) for each in by_device],
    )


def clone_job(
    services: Services,
    caller: Caller,
    job_id: str,
    overrides: dict[str, Any],
    *,
    idempotency_key: str | None = None,
    retry_count: int = 0,
) -> JobObject:
    """Create a job with the same request as this one, except for the overrides."""
    submission = idempotency.SubmissionRequest(
        caller, f"clone {job_id}", overrides, idempotency_key, retry_count
    )
    with services.database.transaction() as session:
        original = get(session, caller.project_id, job_id)
        try:
            request = merge_overrides(original.requested, overrides)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise refusal_of({**first, "loc": ("body", *first["loc"])}) from None
        job = creation.create_once(session, submission, request, services.settings, "job.cloned")
        created = to_object(session, services.settings, job)
    _notify_if_queued(services, job)
    return created


def list_jobs(
    services: Services,
    caller: Caller,
    filters: JobFilters,
    *,
    after: str | None = None,
    limit: int = 20,
) -> Page[JobObject]:
    """List jobs, the newest first."""
    check_cursor(after, "ftjob-", "a job")
    with services.database.read() as session:
        if filters.model is not None:
            model = aliases.resolve(session, caller.project_id, filters.model)
            filters = replace(filters, model=model)
        jobs = repository.newest_first(
            session, caller.project_id, filters, after=after, limit=limit
        )
        return Page[JobObject].of(to_objects(session, services.settings, jobs), limit)


def retrieve_job(services: Services, caller: Caller, job_id: str) -> JobObject:
    with services.database.read() as session:
        job = get(session, caller.project_id, job_id)
        return to_object(session, services.settings, job)


def update_job(
    services: Services, caller: Caller, job_id: str, changes: Mapping[str, str | None]
) -> JobObject:
    """Change pairs of a job's metadata; None removes one."""
    with services.database.transaction() as session:
        job = metadata.change(session, caller.project_id, job_id, changes)
        audit.record(session, caller, "job.updated", job_id)
        return to_object(session, services.settings, job)


def delete_job(services: Services, caller: Caller, job_id: str) -> JobDeleted:
    """Delete a job that has ended, with its events and checkpoints."""
    with services.database.transaction() as session:
        prefixes = transitions.delete(session, caller.project_id, job_id)
        audit.record(session, caller, "job.deleted", job_id)
    for prefix in prefixes:
        _remove_objects(services, prefix)
    return JobDeleted(id=job_id)


def cancel_job(services: Services, caller: Caller, job_id: str) -> JobObject:
    with services.database.transaction() as session:
        last_event_seq = get(session, caller.project_id, job_id).last_event_seq
        job = transitions.cancel(session, caller.project_id, job_id)
        if job.last_event_seq > last_event_seq:
            audit.record(session, caller, "job.cancelled", job_id)
        return to_object(session, services.settings, job)


def pause_job(services: Services, caller: Caller, job_id: str) -> JobObject:
    with services.database.transaction() as session:
        job = transitions.pause(session, caller.project_id, job_id)
        audit.record(session, caller, "job.paused", job_id)
        return to_object(session, services.settings, job)


def resume_job(
    services: Services, caller: Caller, job_id: str, change: Budget | None = None
) -> JobObject:
    """Resume a paused job; the caps of its budget that `change` names are changed."""
    with services.database.transaction() as session:
        job = transitions.resume(session, caller.project_id, job_id, services.settings, change)
        audit.record(session, caller, "job.resumed", job_id)
        resumed = to_object(session, services.settings, job)
    _notify_if_queued(services, job)
    return resumed


def list_events(
    services: Services, caller: Caller, job_id: str, *, after: str | None = None, limit: int = 20
) -> Page[EventObject]:
    """List events, the newest first."""
    with services.database.read() as session:
        job = get(session, caller.project_id, job_id)
        before = None
        if after is not None:
            before = event_seq(job_id, after)
            if before is None or not 1 <= before <= job.last_event_seq:
                raise unknown_event("after", after)
        events = repository.events_before(session, job_id, before=before, limit=limit)
    return Page[EventObject].of([EventObject.of(event) for event in events], limit)


def list_checkpoints(
    services: Services, caller: Caller, job_id: str, *, after: str | None = None, limit: int = 10
) -> Page[CheckpointObject]:
    """List checkpoints, the newest first."""
    with services.database.read() as session:
        job = get(session, caller.project_id, job_id)
        name = model_id(session, job)
        rows = checkpoints(session, job, after=after, limit=limit)
    objects = [CheckpointObject.of(checkpoint, name) for checkpoint in rows]
    return Page[CheckpointObject].of(objects, limit)


def read_metrics(
    services: Services,
    caller: Caller,
    job_id: str,
    keys: Sequence[str] | None = None,
    num_points: int = metrics.MAX_POINTS,
) -> metrics.SeriesByKey:
    """Return the series of some metrics; without `keys`, of all that have values."""
    with services.database.read() as session:
        job = get(session, caller.project_id, job_id)
        series = metrics.series(session, job, metrics.KEYS if keys is None else keys, num_points)
    if keys is None:
        return {key: points for key, points in series.items() if points}
    return series


def write_metrics_csv(services: Services, caller: Caller, job_id: str) -> Iterator[bytes]:
    """Return all metrics of every step as CSV, in pieces that are read on demand."""
    with services.database.read() as session:
        get(session, caller.project_id, job_id)
    return metrics_csv.write_all(services.database, job_id)


def read_log(
    services: Services, caller: Caller, job_id: str, number: int | None = None, after: int = 0
) -> LogObject:
    """Return the part of an attempt's log after so many bytes; without a number, of the newest
    attempt.
    """
    with services.database.read() as session:
        job = get(session, caller.project_id, job_id)
        attempt = attempt_with_log(session, job, number)
    if attempt is None or attempt.log_bytes <= after:
        return LogObject(
            fine_tuning_job_id=job_id,
            attempt=attempt.number if attempt else number,
            text="",
            bytes=attempt.log_bytes if attempt else 0,
        )
    content = services.storage.read(keys.trainer_log(job.project_id, job_id, attempt.number))
    if content is None:
        raise BytesMissing("The log is missing in the server's storage.")
    log = TrainerLog.model_validate_json(content)
    return LogObject(
        fine_tuning_job_id=job_id,
        attempt=attempt.number,
        text=log.text_after(after),
        bytes=log.num_bytes,
    )


def _notify_if_queued(services: Services, job: Job) -> None:
    if job.status == JobStatus.QUEUED:
        services.notifier.notify(Job, job.id)


def _remove_objects(services: Services, prefix: str) -> None:
    try:
        if keys := services.storage.keys(prefix):
            services.storage.delete(*keys)
    except (OSError, StorageError) as error:
        # No row names these bytes any more; they only take space.
        log.warning("bytes of a deleted job not removed", prefix=prefix, error=str(error))
