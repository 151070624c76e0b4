from fastapi import APIRouter

from app.http.dependencies import Reader, ServicesDep
from app.http.pagination import Page
from app.http.routes import ApiRoute
from app.workers import service
from app.workers.schemas import WorkerObject

router = APIRouter(prefix="/v1/workers", tags=["workers"], route_class=ApiRoute)


@router.get("")
def list_workers(services: ServicesDep, caller: Reader) -> Page[WorkerObject]:
    """List the machines that execute jobs: those that have one, and those that polled for one
    lately.
    """
    return service.list_workers(services, caller)
