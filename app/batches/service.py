"""Use cases of batches: many requests in a file, answered by a worker when engines have time."""

from datetime import timedelta

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.auth import audit
from app.auth.caller import Caller
from app.base.database import now
from app.base.errors import IdempotencyMismatch, IllegalState, NotFound
from app.base.ids import new_id
from app.batches import repository
from app.batches.schemas import BatchObject, BatchRequest
from app.files import lookup as files
from app.http.pagination import Page, check_cursor
from app.jobs import agent_budget
from app.models import Batch, OperationStatus
from app.operations import service as operations
from app.projects import quotas
from app.services import Services

ID_PREFIX = "batch_"
WINDOW = timedelta(hours=24)
MAX_IN_PROGRESS = 100  # per project; a worker has one of them in hand


def create_batch(
    services: Services,
    caller: Caller,
    request: BatchRequest,
    *,
    idempotency_key: str | None = None,
    retry_count: int = 0,
) -> BatchObject:
    """Have a worker send the requests of a file to models."""
    try:
        return _create(services, caller, request, idempotency_key, retry_count)
    except IntegrityError:  # another call with the same idempotency key came first
        return _create(services, caller, request, idempotency_key, retry_count)


def _create(
    services: Services,
    caller: Caller,
    request: BatchRequest,
    idempotency_key: str | None,
    retry_count: int,
) -> BatchObject:
    with services.database.transaction() as session:
        earlier = _find_earlier(session, caller, request, idempotency_key, retry_count)
        if earlier is not None:
            return BatchObject.of(earlier)
        file = files.get_for_batch(session, caller.project_id, request.input_file_id)
        agent_budget.admit_answers(session, caller)
        operations.admit(session, Batch, caller.project_id, MAX_IN_PROGRESS)
        quotas.admit_bytes(session, caller.project_id, 0)
        expiry = request.output_expires_after
        batch = Batch(
            id=new_id(ID_PREFIX),
            project_id=caller.project_id,
            status=OperationStatus.IN_PROGRESS,
            key_id=caller.key_id,
            idempotency_key=idempotency_key,
            endpoint=request.endpoint,
            input_file_id=file.id,
            labels=request.metadata,
            output_lifetime_seconds=None if expiry is None else expiry.seconds,
            expires_at=now(session) + WINDOW,
        )
        session.add(batch)
        session.flush()
        created = BatchObject.of(batch)
        audit.record(session, caller, "batch.created", created.id)
    services.notifier.notify(Batch, created.id)
    return created


def list_batches(
    services: Services, caller: Caller, *, after: str | None = None, limit: int
) -> Page[BatchObject]:
    """List batches, the newest first."""
    check_cursor(after, ID_PREFIX, "a batch")
    with services.database.read() as session:
        batches = repository.newest_first(session, caller.project_id, after=after, limit=limit)
        objects = [BatchObject.of(batch) for batch in batches]
    return Page[BatchObject].of(objects, limit)


def retrieve_batch(services: Services, caller: Caller, batch_id: str) -> BatchObject:
    with services.database.read() as session:
        return BatchObject.of(_get(session, caller.project_id, batch_id))


def cancel_batch(services: Services, caller: Caller, batch_id: str) -> BatchObject:
    """Have the worker stop; the answers so far become the batch's files."""
    with services.database.transaction() as session:
        batch = _get(session, caller.project_id, batch_id)
        if not repository.cancel(session, caller.project_id, batch_id):
            raise IllegalState(
                f"The batch has ended: it is {BatchObject.of(batch).status}.",
                param="batch_id",
                code="batch_ended",
            )
        if batch.cancelling_at is None:
            audit.record(session, caller, "batch.cancelled", batch_id)
        session.refresh(batch)
        return BatchObject.of(batch)


def _get(session: Session, project_id: str, batch_id: str) -> Batch:
    batch = repository.find(session, project_id, batch_id)
    if batch is None:
        raise NotFound(f"No such batch: {batch_id}", param="batch_id", code="batch_not_found")
    return batch


def _find_earlier(
    session: Session,
    caller: Caller,
    request: BatchRequest,
    idempotency_key: str | None,
    retry_count: int,
) -> Batch | None:
    """Return the batch that the same request has made before, by its idempotency key or as a
    client's own retry.
    """
    if idempotency_key is not None:
        batch = repository.find_by_key(session, caller.project_id, idempotency_key)
        if batch is not None and not _is_of(batch, request):
            raise IdempotencyMismatch(
                f"Idempotency-Key: '{idempotency_key}' was used for {batch.id} with another body; "
                "use a new key for a new batch.",
                param="Idempotency-Key",
            )
        return batch
    if retry_count == 0:
        return None
    recent = repository.find_recent(
        session, caller.project_id, caller.key_id, request.input_file_id
    )
    return next((batch for batch in recent if _is_of(batch, request)), None)


def _is_of(batch: Batch, request: BatchRequest) -> bool:
    expiry = request.output_expires_after
    asked = (request.input_file_id, request.endpoint, request.metadata, expiry and expiry.seconds)
    return asked == (
        batch.input_file_id,
        batch.endpoint,
        batch.labels,
        batch.output_lifetime_seconds,
    )
