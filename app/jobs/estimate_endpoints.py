from typing import Annotated

from fastapi import APIRouter, Query

from app.estimates import service as estimates
from app.estimates.schemas import AccuracyObject
from app.http.dependencies import Reader, ServicesDep
from app.http.pagination import Page
from app.http.routes import ApiRoute
from app.jobs import service
from app.jobs.estimate_schemas import EstimateObject
from app.models.job_request import EstimateRequest

MAX_DEVICES = 1024

router = APIRouter(prefix="/v1/fine_tuning/estimates", tags=["fine-tuning"], route_class=ApiRoute)


@router.post("")
def create_estimate(
    services: ServicesDep,
    caller: Reader,
    body: EstimateRequest,
    device: Annotated[
        str | None,
        Query(
            description="a device of the price table; left out: the default of this service",
            max_length=64,
        ),
    ] = None,
    num_devices: Annotated[
        int, Query(ge=1, le=MAX_DEVICES, description="GPUs of `device`; on a CPU, cores")
    ] = 1,
) -> EstimateObject:
    """Estimate time, memory, cost and earliest start of a future job. Nothing is written."""
    return service.estimate_job(services, caller, body, device, num_devices)


@router.get("/accuracy")
def list_accuracy(services: ServicesDep, caller: Reader) -> Page[AccuracyObject]:
    """List the accuracy of estimates of the newest jobs, by model, method and device."""
    return estimates.list_accuracy(services, caller)
