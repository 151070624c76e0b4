from fastapi import APIRouter

from app.http.dependencies import ApiRoute, App, Reader
from app.http.pagination import Page
from app.workers import service
from app.workers.schemas import WorkerObject

router = APIRouter(prefix="/v1/workers", tags=["workers"], route_class=ApiRoute)


@router.get("")
def list_workers(app: App, caller: Reader) -> Page[WorkerObject]:
    """The machines that execute jobs: those that have one, and those that looked for one lately."""
    with app.database.read() as session:
        return Page[WorkerObject].of([WorkerObject.of(row, caller.project_id) for row in service.live(session, app.settings)])
