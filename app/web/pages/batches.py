from typing import Any

from fastapi import APIRouter, Request, Response
from sse_starlette import EventSourceResponse

from app.auth.caller import Caller
from app.batches import service
from app.http.dependencies import After, ServicesDep
from app.services import Services
from app.web import live
from app.web.forms import notify_refusals, redirect_to
from app.web.rendering import fragment, page, shared
from app.web.session import notify
from app.web.visitor import PageRouter, Visitor, WritingVisitor

PATH = "/batches"
PAGE_SIZE = 50
POLL_SECONDS = 2.0  # Answers notify nobody.

router = PageRouter(PATH)
streams = APIRouter(prefix=PATH)


@router.get("")
def batches_page(
    services: ServicesDep, request: Request, caller: Visitor, after: After = None
) -> Response:
    rows = _list(services, caller, after)
    return page(request, "batches/page.html", caller, here="/data", **rows)


@router.change("/{batch_id}/cancel")
def cancel_batch(
    services: ServicesDep, request: Request, caller: WritingVisitor, batch_id: str
) -> Response:
    with notify_refusals(request):
        service.cancel_batch(services, caller, batch_id)
        notify(request, "The batch stops, and keeps its answers.")
    return redirect_to(PATH)


@streams.get("/live")
def batches_stream(
    services: ServicesDep, request: Request, caller: Visitor, after: After = None
) -> EventSourceResponse:
    """Send the list as answers come."""
    context = shared(request, caller)

    def render() -> live.Parts:
        rows = _list(services, caller, after)
        return {"batches": fragment("batches/rows.html", **context, **rows)}

    render()  # refuses what is no batch
    return live.stream(services, caller, render, POLL_SECONDS)


def _list(services: Services, caller: Caller, after: str | None) -> dict[str, Any]:
    batches = service.list_batches(services, caller, after=after, limit=PAGE_SIZE)
    return {"batches": batches, "after": after}
