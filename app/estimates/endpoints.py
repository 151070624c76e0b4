from fastapi import APIRouter

from app.dependencies import ApiRoute, App, Reader
from app.jobs import service as jobs
from app.jobs.requests import JobRequest
from falqon_core.spec.estimate import Estimate

router = APIRouter(prefix="/v1/fine_tuning/estimates", tags=["fine-tuning"], route_class=ApiRoute)


@router.post("")
def create_estimate(app: App, caller: Reader, body: JobRequest) -> Estimate:
    """Time, memory and cost of a job before it exists. Arithmetic only; nothing is written."""
    with app.database.read() as session:
        return jobs.estimate(session, caller.project_id, body, app.settings)
