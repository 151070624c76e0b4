from fastapi import APIRouter

from app.http.dependencies import Reader, ServicesDep, Writer
from app.http.routes import ApiRoute
from app.retention import service
from app.retention.schemas import (
    Deletion,
    JobDeletionRequest,
    ModelDeletionRequest,
    ModelRetention,
    RetentionRequest,
)

router = APIRouter(prefix="/v1", tags=["retention"], route_class=ApiRoute)


@router.get("/models/{model:path}/retention")
def retrieve_retention(services: ServicesDep, caller: Reader, model: str) -> ModelRetention:
    """Return when a model of the project was used last, and when it expires."""
    return service.retrieve_retention(services, caller, model)


@router.post("/models/{model:path}/retention")
def change_retention(
    services: ServicesDep, caller: Writer, model: str, body: RetentionRequest
) -> ModelRetention:
    """Pin a model, so that it never expires, or unpin it."""
    return service.change_retention(services, caller, model, body)


@router.post("/falqon/deletions/models")
def delete_models(services: ServicesDep, caller: Writer, body: ModelDeletionRequest) -> Deletion:
    """Delete up to 100 fine-tuned models that meet all criteria. Models in use stay."""
    return service.delete_models(services, caller, body)


@router.post("/falqon/deletions/jobs")
def delete_jobs(services: ServicesDep, caller: Writer, body: JobDeletionRequest) -> Deletion:
    """Delete up to 100 ended jobs that meet all criteria, with events and checkpoints. Their models
    stay.
    """
    return service.delete_jobs(services, caller, body)
