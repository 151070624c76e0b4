from fastapi import APIRouter

from app.http.dependencies import InstallationAdmin, Reader, ServicesDep
from app.http.pagination import Page
from app.http.routes import ApiRoute
from app.workers import service
from app.workers.schemas import DrainRequest, WorkerObject

router = APIRouter(prefix="/v1/workers", tags=["workers"], route_class=ApiRoute)


@router.get("")
def list_workers(services: ServicesDep, caller: Reader) -> Page[WorkerObject]:
    """List the machines that execute jobs: those that have one, and those that polled for one
    lately.
    """
    return service.list_workers(services, caller)


@router.post("/{worker}/drain")
def drain_worker(
    services: ServicesDep, caller: InstallationAdmin, worker: str, body: DrainRequest
) -> Page[WorkerObject]:
    """Let a worker, or all workers of a machine, take no more jobs, or take them again. Return
    those workers.
    """
    return service.change_drain(services, caller, worker, body)
