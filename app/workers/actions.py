"""What callers do with workers; each function is one unit of work."""

from app.auth.caller import Caller
from app.http.pagination import Page
from app.services import Services
from app.workers import service
from app.workers.schemas import WorkerObject


def list_workers(services: Services, caller: Caller) -> Page[WorkerObject]:
    """Return those that have a job, and those that looked for one lately, newest first."""
    with services.database.read() as session:
        workers = service.list_live(session, services.settings)
    return Page[WorkerObject].of([WorkerObject.of(worker, caller.project_id) for worker in workers])
