from collections import defaultdict
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from sqlalchemy.orm import Session
from sse_starlette import EventSourceResponse

from app.auth.caller import Caller
from app.catalogue import service as models
from app.http.dependencies import ServicesDep
from app.inference import engines
from app.inference.engine_schemas import EngineChange
from app.jobs import listing, queue_forecast
from app.jobs.listing import JobQuery
from app.models import JobStatus
from app.services import Services
from app.web import live
from app.web.forms import notify_refusals, redirect_to
from app.web.rendering import fragment, page, shared
from app.web.session import notify
from app.web.visitor import InstallationVisitor, PageRouter, Visitor
from app.workers import service as workers
from app.workers.schemas import WorkerObject

WORKER_POLL_SECONDS = 2.0

ModelField = Annotated[str, Form(max_length=512)]

router = PageRouter()
streams = APIRouter()


@router.get("/workers")
def workers_page(services: ServicesDep, request: Request, caller: Visitor) -> Response:
    with services.database.read() as session:
        return page(request, "workers/page.html", caller, **_state(session, services, caller))


@router.change("/workers/engines/keep")
def keep_engine(
    services: ServicesDep,
    request: Request,
    caller: InstallationVisitor,
    model: ModelField,
    keep_loaded: Annotated[bool, Form()] = False,
) -> Response:
    with notify_refusals(request):
        engines.change_engine(services, caller, model, EngineChange(keep_loaded=keep_loaded))
    return redirect_to("/workers")


@router.change("/workers/engines/unload")
def unload_engine(
    services: ServicesDep, request: Request, caller: InstallationVisitor, model: ModelField
) -> Response:
    with notify_refusals(request):
        engines.unload_engine(services, caller, model)
        notify(request, "Model unloaded. The next question loads it again.")
    return redirect_to("/workers")


@streams.get("/workers/live")
def workers_stream(services: ServicesDep, request: Request, caller: Visitor) -> EventSourceResponse:
    context = shared(request, caller)

    def render() -> live.Parts:
        with services.database.read() as session:
            state = _state(session, services, caller)
        return {
            name: fragment(f"workers/{name}.html", **context, **state)
            for name in ("workers", "diagnoses", "engines", "queue")
        }

    return live.stream(services, caller, render, WORKER_POLL_SECONDS)


def _state(session: Session, services: Services, caller: Caller) -> dict[str, Any]:
    queue = queue_forecast.read_queue(session, services.settings)
    waiting = listing.find_page(
        session, caller.project_id, JobQuery(status=JobStatus.QUEUED, descending=False)
    )
    places = [
        (job, queue.position_of(job.id, job.num_gpus, job.gpu), queue.seconds_of(job.id))
        for job in waiting.jobs
        if job.is_waiting
    ]
    places.sort(key=lambda row: (row[1] and row[1].position) or queue_forecast.MAX_FORECAST)
    rows = []
    taken: defaultdict[str, set[int]] = defaultdict(set)  # cards of each machine
    for live_worker in workers.list_live(session, services.settings):
        worker = WorkerObject.of(live_worker, caller.project_id)
        taken[worker.machine].update(worker.cards)
        # A visitor must not see jobs of other projects.
        rows.append((worker, live_worker.job if worker.job else None))
    loaded = engines.list_engines(services, caller).data
    ids = [engine.id for engine in loaded]
    return {
        "workers": rows,
        "taken": taken,
        "engines": loaded,
        "models": models.present(session, caller.project_id, ids),
        "is_own_engine": bool(services.settings.engine_url),
        "places": places,
        "num_waiting": waiting.num_jobs,
    }
