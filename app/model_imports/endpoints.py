from fastapi import APIRouter

from app.http.dependencies import InstallationAdmin, ServicesDep
from app.http.pagination import Page
from app.http.routes import ApiRoute
from app.model_imports import service
from app.model_imports.schemas import ModelImportObject, ModelImportRequest

router = APIRouter(prefix="/v1", tags=["models"], route_class=ApiRoute)


@router.post("/models")
def create_model(
    services: ServicesDep, caller: InstallationAdmin, request: ModelImportRequest
) -> ModelImportObject:
    """Have a worker add a base model to the catalogue, which every project sees. Its import reports
    the progress.
    """
    return service.create_import(services, caller, request)


@router.get("/model_imports")
def list_model_imports(
    services: ServicesDep, _caller: InstallationAdmin
) -> Page[ModelImportObject]:
    """List the newest imports of base models."""
    return service.list_imports(services)


@router.get("/model_imports/{import_id}")
def retrieve_model_import(
    services: ServicesDep, _caller: InstallationAdmin, import_id: str
) -> ModelImportObject:
    return service.retrieve_import(services, import_id)
