from typing import Annotated

from fastapi import APIRouter, Query

from app.http.dependencies import After, ApiRoute, App, Reader, Writer
from app.http.pagination import Page, check_cursor
from app.webhooks import repository, service
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
def create_endpoint(app: App, caller: Writer, body: NewEndpoint) -> EndpointWithSecret:
    with app.database.transaction() as session:
        endpoint, secret = service.create(session, caller.project_id, body, app.settings)
    return EndpointWithSecret.of(endpoint, signing_secret=secret)


@router.get("/webhook_endpoints")
def list_endpoints(app: App, caller: Reader, after: After = None, limit: Limit = 20) -> Page[EndpointObject]:
    """Newest first."""
    check_cursor(after, "whe_", "a webhook endpoint")
    with app.database.read() as session:
        endpoints = repository.newest_first(session, caller.project_id, after=after, limit=limit)
    return Page[EndpointObject].of([EndpointObject.of(endpoint) for endpoint in endpoints], limit)


@router.get("/webhook_endpoints/{webhook_endpoint_id}")
def retrieve_endpoint(app: App, caller: Reader, webhook_endpoint_id: str) -> EndpointObject:
    with app.database.read() as session:
        return EndpointObject.of(service.get(session, caller.project_id, webhook_endpoint_id))


@router.post("/webhook_endpoints/{webhook_endpoint_id}")
def update_endpoint(app: App, caller: Writer, webhook_endpoint_id: str, body: EndpointChanges) -> EndpointObject:
    """Disabling ends what is still to be sent; enabling begins with the next event."""
    with app.database.transaction() as session:
        return EndpointObject.of(service.update(session, caller.project_id, webhook_endpoint_id, body, app.settings))


@router.delete("/webhook_endpoints/{webhook_endpoint_id}")
def delete_endpoint(app: App, caller: Writer, webhook_endpoint_id: str) -> EndpointDeleted:
    with app.database.transaction() as session:
        service.delete(session, caller.project_id, webhook_endpoint_id)
    return EndpointDeleted(id=webhook_endpoint_id)


@router.post("/webhook_endpoints/{webhook_endpoint_id}/rotate_secret")
def rotate_secret(app: App, caller: Writer, webhook_endpoint_id: str, body: Rotation | None = None) -> EndpointWithSecret:
    keep_old = body is not None and body.keep_old_secret_active_for_24_hours
    with app.database.transaction() as session:
        endpoint, secret = service.rotate(session, caller.project_id, webhook_endpoint_id, app.settings, keep_old=keep_old)
    return EndpointWithSecret.of(endpoint, signing_secret=secret)


@router.post("/webhook_endpoints/{webhook_endpoint_id}/test")
def test_endpoint(app: App, caller: Writer, webhook_endpoint_id: str, body: TestRequest) -> TestResult:
    """Sends a sample of the event now, whether or not the endpoint listens to it, and leaves no delivery behind."""
    with app.database.read() as session:
        endpoint = service.get(session, caller.project_id, webhook_endpoint_id)
    status_code = service.test(endpoint, body.event_type, app.settings)
    return TestResult(webhook_endpoint_id=endpoint.id, event_type=body.event_type, status_code=status_code)


@router.get("/webhook_endpoints/{webhook_endpoint_id}/deliveries")
def list_deliveries(app: App, caller: Reader, webhook_endpoint_id: str, after: After = None, limit: Limit = 20) -> Page[DeliveryObject]:
    """Newest first."""
    check_cursor(after, "whd_", "a delivery")
    with app.database.read() as session:
        endpoint = service.get(session, caller.project_id, webhook_endpoint_id)
        deliveries = repository.deliveries(session, endpoint.id, after=after, limit=limit)
    return Page[DeliveryObject].of([DeliveryObject.of(delivery) for delivery in deliveries], limit)


@router.post("/webhook_endpoints/{webhook_endpoint_id}/deliveries/{delivery_id}/resend")
def resend_delivery(app: App, caller: Writer, webhook_endpoint_id: str, delivery_id: str) -> DeliveryObject:
    """A new delivery of the same event, sent at once."""
    with app.database.transaction() as session:
        return DeliveryObject.of(service.resend(session, caller.project_id, webhook_endpoint_id, delivery_id))
