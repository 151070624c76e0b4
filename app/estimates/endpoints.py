from typing import Annotated

from fastapi import APIRouter, Query

from app.estimates import service
from app.estimates.schemas import AccuracyObject, EstimateObject
from app.http.dependencies import ApiRoute, App, Reader
from app.http.pagination import Page
from app.jobs import queue_forecast
from app.jobs import service as jobs
from app.jobs.requests import JobRequest

MAX_DEVICES = 1024

router = APIRouter(prefix="/v1/fine_tuning/estimates", tags=["fine-tuning"], route_class=ApiRoute)


@router.post("")
def create_estimate(
    app: App,
    caller: Reader,
    body: JobRequest,
    device: Annotated[str | None, Query(description="of the price table; left out: what this service trains on", max_length=64)] = None,
    num_devices: Annotated[int, Query(ge=1, le=MAX_DEVICES, description="of `device`; on a CPU, cores")] = 1,
) -> EstimateObject:
    """Time, memory, cost and earliest start of a job before it exists. Nothing is written."""
    target = None if device is None else service.target_named(device, num_devices)
    with app.database.read() as session:
        found = jobs.estimate(session, caller.project_id, body, app.settings, target)
        place = queue_forecast.place_of_new(session, app.settings, caller.project_id, body.priority)
    return EstimateObject(**dict(found), queue=place)


@router.get("/accuracy")
def list_accuracy(app: App, caller: Reader) -> Page[AccuracyObject]:
    """How well estimates were kept by the project's newest jobs, by model, method and device."""
    with app.database.read() as session:
        rows = service.accuracy(session, caller.project_id)
    return Page[AccuracyObject].of([AccuracyObject(id=f"{row.model}:{row.method}:{row.device}", **row._asdict()) for row in rows])
