from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from sse_starlette import EventSourceResponse

from app.auth.caller import Caller
from app.errors import InvalidRequest
from app.http.dependencies import After, App, Services
from app.stream.endpoints import event_stream
from app.web import live
from app.web.forms import asked, to, told
from app.web.pages.settings.shown import HERE, settings_page
from app.web.rendering import fragment, shared
from app.web.session import notify
from app.web.visitor import CHANGES, MAX_FORM_BYTES, PageRoute, Visitor, WritingVisitor
from app.webhooks import endpoints
from app.webhooks.events import DEFAULT_EVENT_TYPES, EVENT_TYPES, PREFIX
from app.webhooks.schemas import EndpointChanges, NewEndpoint, Rotation, TestRequest

MAX_ENDPOINTS, DELIVERIES = 100, 20
LOOK_SECONDS = 2.0
WEBHOOKS = f"{HERE}/webhooks"
EVENTS = {event: event.removeprefix(PREFIX) for event in EVENT_TYPES}
Field = Annotated[str | None, Form()]
Fields = Annotated[list[str] | None, Form()]

router = APIRouter(prefix=WEBHOOKS, route_class=PageRoute)
streams = APIRouter(prefix=WEBHOOKS)


@router.get("")
def webhooks_page(app: App, request: Request, caller: Visitor) -> Response:
    found = endpoints.list_endpoints(app, caller, limit=MAX_ENDPOINTS).data
    return settings_page(request, "webhooks.html", caller, WEBHOOKS, endpoints=found, events=EVENTS, chosen=DEFAULT_EVENT_TYPES)


@router.post("", max_body_size=MAX_FORM_BYTES, dependencies=CHANGES)
def create_webhook(
    app: App, request: Request, caller: WritingVisitor, url: Field = None, name: Field = None, event: Fields = None
) -> Response:
    """The answer itself is the page that shows the signing secret: it is kept nowhere, not even for one more page."""
    with told(request):
        made = endpoints.create_endpoint(app, caller, asked(NewEndpoint, url=url, name=name, event_types=_chosen(event)))
        return settings_page(request, "webhook_secret.html", caller, WEBHOOKS, endpoint=made, is_new=True)
    return to(WEBHOOKS)


@router.get("/{endpoint_id}")
def webhook_page(app: App, request: Request, caller: Visitor, endpoint_id: str, after: After = None) -> Response:
    endpoint = endpoints.retrieve_endpoint(app, caller, endpoint_id)
    context = {"events": EVENTS, **_deliveries(app, caller, endpoint_id, after)}
    return settings_page(request, "webhook.html", caller, WEBHOOKS, endpoint=endpoint, **context)


@streams.get("/{endpoint_id}/live")
def webhook_stream(app: App, request: Request, caller: Visitor, endpoint_id: str) -> EventSourceResponse:
    """The newest deliveries."""
    context = shared(request, caller)
    endpoints.retrieve_endpoint(app, caller, endpoint_id)

    def render() -> live.Parts:
        endpoint = endpoints.retrieve_endpoint(app, caller, endpoint_id)
        found = _deliveries(app, caller, endpoint_id, None)
        return {"deliveries": fragment("settings/deliveries.html", **context, endpoint=endpoint, **found)}

    return event_stream(live.parts(app, caller.key_id, caller.project_id, render, LOOK_SECONDS))


@router.post("/{endpoint_id}", max_body_size=MAX_FORM_BYTES, dependencies=CHANGES)
def change_webhook(
    app: App, request: Request, caller: WritingVisitor, endpoint_id: str, url: Field = None, name: Field = None, event: Fields = None
) -> Response:
    with told(request):
        changes = asked(EndpointChanges, url=url, name=name, event_types=_chosen(event))
        endpoints.update_endpoint(app, caller, endpoint_id, changes)
        notify(request, "The endpoint is changed.")
    return to(f"{WEBHOOKS}/{endpoint_id}")


@router.post("/{endpoint_id}/enable", max_body_size=MAX_FORM_BYTES, dependencies=CHANGES)
def enable_webhook(app: App, request: Request, caller: WritingVisitor, endpoint_id: str) -> Response:
    with told(request):
        endpoints.update_endpoint(app, caller, endpoint_id, EndpointChanges(enabled=True))
        notify(request, "The endpoint is told of the next event.")
    return to(f"{WEBHOOKS}/{endpoint_id}")


@router.post("/{endpoint_id}/disable", max_body_size=MAX_FORM_BYTES, dependencies=CHANGES)
def disable_webhook(app: App, request: Request, caller: WritingVisitor, endpoint_id: str) -> Response:
    with told(request):
        endpoints.update_endpoint(app, caller, endpoint_id, EndpointChanges(enabled=False))
        notify(request, "The endpoint is told of nothing; what was still to be sent is given up.")
    return to(f"{WEBHOOKS}/{endpoint_id}")


@router.post("/{endpoint_id}/rotate", max_body_size=MAX_FORM_BYTES, dependencies=CHANGES)
def rotate_secret(app: App, request: Request, caller: WritingVisitor, endpoint_id: str, keep_old: Field = None) -> Response:
    with told(request):
        rotation = Rotation(keep_old_secret_active_for_24_hours=keep_old is not None)
        made = endpoints.rotate_secret(app, caller, endpoint_id, rotation)
        return settings_page(request, "webhook_secret.html", caller, WEBHOOKS, endpoint=made, is_new=False)
    return to(f"{WEBHOOKS}/{endpoint_id}")


@router.post("/{endpoint_id}/test", max_body_size=MAX_FORM_BYTES, dependencies=CHANGES)
def send_sample(app: App, request: Request, caller: WritingVisitor, endpoint_id: str, event_type: Field = None) -> Response:
    with told(request):
        status = endpoints.test_endpoint(app, caller, endpoint_id, asked(TestRequest, event_type=event_type)).status_code
        notify(request, f"The endpoint answered the sample with {status}.", failed=status >= 300)
    return to(f"{WEBHOOKS}/{endpoint_id}")


@router.post("/{endpoint_id}/delete", max_body_size=MAX_FORM_BYTES, dependencies=CHANGES)
def delete_webhook(app: App, request: Request, caller: WritingVisitor, endpoint_id: str) -> Response:
    with told(request):
        endpoints.delete_endpoint(app, caller, endpoint_id)
        notify(request, "The endpoint and its deliveries are deleted.")
        return to(WEBHOOKS)
    return to(f"{WEBHOOKS}/{endpoint_id}")


@router.post("/{endpoint_id}/deliveries/{delivery_id}/resend", max_body_size=MAX_FORM_BYTES, dependencies=CHANGES)
def resend_delivery(app: App, request: Request, caller: WritingVisitor, endpoint_id: str, delivery_id: str) -> Response:
    with told(request):
        endpoints.resend_delivery(app, caller, endpoint_id, delivery_id)
        notify(request, "The event is sent again.")
    return to(f"{WEBHOOKS}/{endpoint_id}")


def _chosen(event: list[str] | None) -> list[str]:
    if not event:
        raise InvalidRequest("events: choose at least one.", param="event_types")
    return event


def _deliveries(app: Services, caller: Caller, endpoint_id: str, after: str | None) -> dict[str, Any]:
    return {"deliveries": endpoints.list_deliveries(app, caller, endpoint_id, after, DELIVERIES), "after": after}
