from typing import Annotated

from fastapi import APIRouter, Query

from app.batches import service
from app.batches.schemas import BatchObject, BatchRequest
from app.http.dependencies import (
    After,
    Agent,
    IdempotencyKey,
    Reader,
    RetryCount,
    ServicesDep,
    Writer,
)
from app.http.pagination import Page
from app.http.routes import ApiRoute

router = APIRouter(prefix="/v1/batches", tags=["inference"], route_class=ApiRoute)


@router.post("")
def create_batch(
    services: ServicesDep,
    caller: Agent,
    body: BatchRequest,
    idempotency_key: IdempotencyKey = None,
    retry_count: RetryCount = 0,
) -> BatchObject:
    """Have the requests of a file answered, behind those of waiting clients. A worker checks the
    file and sends each line to the engine of its model; the answers become a file, too.
    """
    return service.create_batch(
        services, caller, body, idempotency_key=idempotency_key, retry_count=retry_count
    )


@router.get("")
def list_batches(
    services: ServicesDep,
    caller: Reader,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Page[BatchObject]:
    """List batches, newest first."""
    return service.list_batches(services, caller, after=after, limit=limit)


@router.get("/{batch_id}")
def retrieve_batch(services: ServicesDep, caller: Reader, batch_id: str) -> BatchObject:
    return service.retrieve_batch(services, caller, batch_id)


@router.post("/{batch_id}/cancel")
def cancel_batch(services: ServicesDep, caller: Writer, batch_id: str) -> BatchObject:
    """Stop a batch. The answers so far stay; the other lines stand in the error file."""
    return service.cancel_batch(services, caller, batch_id)
