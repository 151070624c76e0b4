from typing import Annotated

from fastapi import APIRouter, Query

from app.http.dependencies import After, Reader, ServicesDep, Writer
from app.http.pagination import Page
from app.http.routes import ApiRoute
from app.webhooks import service
from app.webhooks.events import EVENT_TYPES
from app.webhooks.schemas import (
    DeliveryObject,
    EndpointChanges,
    EndpointDeleted,
    EndpointObject,
    EndpointWithSecret,
    EventTypeList,
    NewEndpoint,
    Rotation,
    TestRequest,
    TestResult,
)

Limit = Annotated[int, Query(ge=1, le=100)]

router = APIRouter(prefix="/v1", tags=["webhooks"], route_class=ApiRoute)


@router.get("/webhook_event_types")
def list_event_types(caller: Reader) -> EventTypeList:
    return EventTypeList(data=list(EVENT_TYPES))


@router.post("/webhook_endpoints")
def create_endpoint(services: ServicesDep, caller: Writer, body: NewEndpoint) -> EndpointWithSecret:
    return service.create_endpoint(services, caller, body)


@router.get("/webhook_endpoints")
def list_endpoints(
    services: ServicesDep, caller: Reader, after: After = None, limit: Limit = 20
) -> Page[EndpointObject]:
    """List them, newest first."""
    return service.list_endpoints(services, caller, after=after, limit=limit)


@router.get("/webhook_endpoints/{webhook_endpoint_id}")
def retrieve_endpoint(
    services: ServicesDep, caller: Reader, webhook_endpoint_id: str
) -> EndpointObject:
    return service.retrieve_endpoint(services, caller, webhook_endpoint_id)


@router.post("/webhook_endpoints/{webhook_endpoint_id}")
def update_endpoint(
    services: ServicesDep, caller: Writer, webhook_endpoint_id: str, body: EndpointChanges
) -> EndpointObject:
    """Change an endpoint: disabling ends what is still to be sent; enabling begins with the next
    event.
    """
    return service.update_endpoint(services, caller, webhook_endpoint_id, body)


@router.delete("/webhook_endpoints/{webhook_endpoint_id}")
def delete_endpoint(
    services: ServicesDep, caller: Writer, webhook_endpoint_id: str
) -> EndpointDeleted:
    return service.delete_endpoint(services, caller, webhook_endpoint_id)


@router.post("/webhook_endpoints/{webhook_endpoint_id}/rotate_secret")
def rotate_secret(
    services: ServicesDep, caller: Writer, webhook_endpoint_id: str, body: Rotation | None = None
) -> EndpointWithSecret:
    return service.rotate_secret(services, caller, webhook_endpoint_id, body or Rotation())


@router.post("/webhook_endpoints/{webhook_endpoint_id}/test")
def test_endpoint(
    services: ServicesDep, caller: Writer, webhook_endpoint_id: str, body: TestRequest
) -> TestResult:
    """Send a sample of the event now, whether or not the endpoint subscribes to it, and leave no
    delivery behind.
    """
    return service.test_endpoint(services, caller, webhook_endpoint_id, body)


@router.get("/webhook_endpoints/{webhook_endpoint_id}/deliveries")
def list_deliveries(
    services: ServicesDep,
    caller: Reader,
    webhook_endpoint_id: str,
    after: After = None,
    limit: Limit = 20,
) -> Page[DeliveryObject]:
    """List them, newest first."""
    return service.list_deliveries(services, caller, webhook_endpoint_id, after=after, limit=limit)


@router.post("/webhook_endpoints/{webhook_endpoint_id}/deliveries/{delivery_id}/resend")
def resend_delivery(
    services: ServicesDep, caller: Writer, webhook_endpoint_id: str, delivery_id: str
) -> DeliveryObject:
    """Send a new delivery of the same event, at once."""
    return service.resend_delivery(services, caller, webhook_endpoint_id, delivery_id)
