from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session
from sse_starlette import EventSourceResponse

from app.auth.caller import Caller
from app.http.dependencies import App, Services
from app.jobs import listing, queue_forecast
from app.jobs.listing import Wanted
from app.models import JobStatus
from app.stream.endpoints import event_stream
from app.web import live
from app.web.rendering import fragment, page, shared
from app.web.visitor import PageRoute, Visitor
from app.workers import service as workers
from app.workers.schemas import WorkerObject

LOOK_SECONDS = 2.0

router = APIRouter(route_class=PageRoute)
streams = APIRouter()


@router.get("/workers")
def workers_page(app: App, request: Request, caller: Visitor) -> Response:
    with app.database.read() as session:
        return page(request, "workers/page.html", caller, **_state(session, app, caller))


@streams.get("/workers/live")
def workers_stream(app: App, request: Request, caller: Visitor) -> EventSourceResponse:
    context = shared(request, caller)

    def render() -> live.Parts:
        with app.database.read() as session:
            found = _state(session, app, caller)
        return {name: fragment(f"workers/{name}.html", **context, **found) for name in ("workers", "queue")}

    return event_stream(live.parts(app, caller.key_id, caller.project_id, render, LOOK_SECONDS))


def _state(session: Session, app: Services, caller: Caller) -> dict[str, Any]:
    rows = [(WorkerObject.of(one, caller.project_id), one.job) for one in workers.live(session, app.settings)]
    line = queue_forecast.look(session, app.settings)
    waiting = listing.find(session, caller.project_id, Wanted(status=JobStatus.QUEUED, descending=False))
    places = [(job, line.place(job.id)) for job in waiting.jobs if queue_forecast.waits(job)]
    places.sort(key=lambda one: one[1].position if one[1] and one[1].position else queue_forecast.FORESEEN)
    # What a job of another project does is not this visitor's to see.
    shown = [(worker, job if job and worker.job else None) for worker, job in rows]
    return {"workers": shown, "places": places, "num_waiting": waiting.num_jobs}
