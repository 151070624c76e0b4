from collections.abc import Collection
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from sse_starlette import EventSourceResponse

from app.auth.caller import Caller
from app.http.dependencies import After, ServicesDep
from app.jobs import service as jobs
from app.projects.quotas import WARNING_SHARE
from app.services import Services
from app.web import live
from app.web.forms import (
    EMPTY_FORM,
    InvalidForm,
    TypedForm,
    notify_refusals,
    parse_form,
    redirect_to,
)
from app.web.pages.settings.layout import SETTINGS_PATH, settings_page
from app.web.rendering import fragment, shared
from app.web.session import notify
from app.web.visitor import PageRouter, Visitor, WritingVisitor
from app.webhooks import service
from app.webhooks.events import DEFAULT_EVENT_TYPES, EVENT_TYPE_PREFIX, EVENT_TYPES
from app.webhooks.schemas import (
    EndpointChanges,
    EndpointWithSecret,
    NewEndpoint,
    Rotation,
    TestRequest,
)

MAX_ENDPOINTS = 100
DELIVERIES = 20
DELIVERY_POLL_SECONDS = 2.0
WEBHOOKS_PATH = f"{SETTINGS_PATH}/webhooks"
EVENTS = {event: event.removeprefix(EVENT_TYPE_PREFIX) for event in EVENT_TYPES} | {
    "project.device_hours.warning": f"{WARNING_SHARE:.0%} of a month's device hours used",
    "project.device_hours.exhausted": "a month's device hours used up",
}
Field = Annotated[str | None, Form()]
Fields = Annotated[list[str] | None, Form()]

router = PageRouter(WEBHOOKS_PATH)
streams = APIRouter(prefix=WEBHOOKS_PATH)


@router.get("")
def webhooks_page(services: ServicesDep, request: Request, caller: Visitor) -> Response:
    return _list_page(services, request, caller, DEFAULT_EVENT_TYPES)


@router.change("")
def create_webhook(
    services: ServicesDep,
    request: Request,
    caller: WritingVisitor,
    url: Field = None,
    name: Field = None,
    event: Fields = None,
) -> Response:
    """Answer with the page that shows the signing secret itself: it is kept nowhere, not even for
    one more page.
    """
    with TypedForm("event_types", url=url, name=name) as form:
        endpoint_request = parse_form(NewEndpoint, **form.values, event_types=_chosen(event))
        endpoint = service.create_endpoint(services, caller, endpoint_request)
        return _secret_page(request, caller, endpoint, is_new=True)
    return _list_page(services, request, caller, event or [], form)


@router.get("/{endpoint_id}")
def webhook_page(
    services: ServicesDep, request: Request, caller: Visitor, endpoint_id: str, after: After = None
) -> Response:
    return _endpoint_page(services, request, caller, endpoint_id, after)


@streams.get("/{endpoint_id}/live")
def webhook_stream(
    services: ServicesDep, request: Request, caller: Visitor, endpoint_id: str
) -> EventSourceResponse:
    """Send the newest deliveries."""
    context = shared(request, caller)
    service.retrieve_endpoint(services, caller, endpoint_id)

    def render() -> live.Parts:
        endpoint = service.retrieve_endpoint(services, caller, endpoint_id)
        deliveries = _deliveries(services, caller, endpoint_id, None)
        return {
            "deliveries": fragment(
                "settings/deliveries.html", **context, endpoint=endpoint, **deliveries
            )
        }

    return live.stream(services, caller, render, DELIVERY_POLL_SECONDS)


@router.change("/{endpoint_id}")
def change_webhook(
    services: ServicesDep,
    request: Request,
    caller: WritingVisitor,
    endpoint_id: str,
    url: Field = None,
    name: Field = None,
    event: Fields = None,
) -> Response:
    with TypedForm("event_types", url=url, name=name) as form:
        changes = parse_form(EndpointChanges, **form.values, event_types=_chosen(event))
        service.update_endpoint(services, caller, endpoint_id, changes)
        notify(request, "Endpoint changed.")
        return redirect_to(f"{WEBHOOKS_PATH}/{endpoint_id}")
    return _endpoint_page(services, request, caller, endpoint_id, None, event or [], form)


@router.change("/{endpoint_id}/enable")
def enable_webhook(
    services: ServicesDep, request: Request, caller: WritingVisitor, endpoint_id: str
) -> Response:
    with notify_refusals(request):
        service.update_endpoint(services, caller, endpoint_id, EndpointChanges(enabled=True))
        notify(request, "Endpoint enabled from the next event on.")
    return redirect_to(f"{WEBHOOKS_PATH}/{endpoint_id}")


@router.change("/{endpoint_id}/disable")
def disable_webhook(
    services: ServicesDep, request: Request, caller: WritingVisitor, endpoint_id: str
) -> Response:
    with notify_refusals(request):
        service.update_endpoint(services, caller, endpoint_id, EndpointChanges(enabled=False))
        notify(request, "Endpoint disabled. Pending deliveries are dropped.")
    return redirect_to(f"{WEBHOOKS_PATH}/{endpoint_id}")


@router.change("/{endpoint_id}/rotate")
def rotate_secret(
    services: ServicesDep,
    request: Request,
    caller: WritingVisitor,
    endpoint_id: str,
    keep_old: Field = None,
) -> Response:
    with notify_refusals(request):
        rotation = Rotation(keep_old_secret_active_for_24_hours=keep_old is not None)
        endpoint = service.rotate_secret(services, caller, endpoint_id, rotation)
        return _secret_page(request, caller, endpoint, is_new=False)
    return redirect_to(f"{WEBHOOKS_PATH}/{endpoint_id}")


@router.change("/{endpoint_id}/test")
def send_sample(
    services: ServicesDep,
    request: Request,
    caller: WritingVisitor,
    endpoint_id: str,
    event_type: Field = None,
) -> Response:
    with notify_refusals(request):
        status = service.test_endpoint(
            services, caller, endpoint_id, parse_form(TestRequest, event_type=event_type)
        ).status_code
        notify(request, f"The endpoint answered the sample with {status}.", failed=status >= 300)
    return redirect_to(f"{WEBHOOKS_PATH}/{endpoint_id}")


@router.change("/{endpoint_id}/delete")
def delete_webhook(
    services: ServicesDep, request: Request, caller: WritingVisitor, endpoint_id: str
) -> Response:
    with notify_refusals(request):
        service.delete_endpoint(services, caller, endpoint_id)
        notify(request, "Endpoint and deliveries deleted.")
        return redirect_to(WEBHOOKS_PATH)
    return redirect_to(f"{WEBHOOKS_PATH}/{endpoint_id}")


@router.change("/{endpoint_id}/deliveries/{delivery_id}/resend")
def resend_delivery(
    services: ServicesDep,
    request: Request,
    caller: WritingVisitor,
    endpoint_id: str,
    delivery_id: str,
) -> Response:
    with notify_refusals(request):
        service.resend_delivery(services, caller, endpoint_id, delivery_id)
        notify(request, "Event queued for delivery.")
    return redirect_to(f"{WEBHOOKS_PATH}/{endpoint_id}")


def _chosen(event: list[str] | None) -> list[str]:
    if not event:
        raise InvalidForm({"event_types": "Choose at least one."})
    return event


def _secret_page(
    request: Request, caller: Caller, endpoint: EndpointWithSecret, *, is_new: bool
) -> Response:
    return settings_page(
        request, "webhook_secret.html", caller, WEBHOOKS_PATH, endpoint=endpoint, is_new=is_new
    )


def _list_page(
    services: Services,
    request: Request,
    caller: Caller,
    chosen: Collection[str],
    form: TypedForm = EMPTY_FORM,
) -> Response:
    endpoints = service.list_endpoints(services, caller, limit=MAX_ENDPOINTS).data
    context = {"endpoints": endpoints, "events": EVENTS, "chosen": chosen}
    return settings_page(request, "webhooks.html", caller, WEBHOOKS_PATH, form, **context)


def _endpoint_page(
    services: Services,
    request: Request,
    caller: Caller,
    endpoint_id: str,
    after: str | None,
    chosen: Collection[str] | None = None,
    form: TypedForm = EMPTY_FORM,
) -> Response:
    """`chosen`: the events that were chosen, where something was typed."""
    endpoint = service.retrieve_endpoint(services, caller, endpoint_id)
    context = {
        "endpoint": endpoint,
        "chosen": endpoint.event_types if chosen is None else chosen,
        **_deliveries(services, caller, endpoint_id, after),
    }
    return settings_page(request, "webhook.html", caller, WEBHOOKS_PATH, form, **context)


def _deliveries(
    services: Services, caller: Caller, endpoint_id: str, after: str | None
) -> dict[str, Any]:
    deliveries = service.list_deliveries(
        services, caller, endpoint_id, after=after, limit=DELIVERIES
    )
    ids = [delivery.fine_tuning_job_id or "" for delivery in deliveries.data]
    with services.database.read() as session:
        present = jobs.present(session, caller.project_id, ids)
    return {"events": EVENTS, "deliveries": deliveries, "jobs": present, "after": after}
