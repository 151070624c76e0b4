from fastapi import APIRouter

from app.exports import service
from app.exports.schemas import ExportObject, ExportRequest
from app.http.dependencies import Reader, ServicesDep, Writer
from app.http.pagination import Page
from app.http.routes import ApiRoute

router = APIRouter(prefix="/v1/models/{model:path}", tags=["models"], route_class=ApiRoute)


@router.post("/exports")
def create_export(
    services: ServicesDep, caller: Writer, model: str, body: ExportRequest
) -> ExportObject:
    """Have a fine-tuned model, or a checkpoint `<model>:ckpt-step-<n>`, converted into another
    format by a worker; repeat the request to see its progress. The result is a model of its own,
    whose files are listed and downloaded as those of any other.
    """
    return service.create_export(services, caller, model, body.format)


@router.get("/exports")
def list_exports(services: ServicesDep, caller: Reader, model: str) -> Page[ExportObject]:
    return service.list_exports(services, caller, model)


@router.get("/exports/{format}")
def retrieve_export(services: ServicesDep, caller: Reader, model: str, format: str) -> ExportObject:
    return service.retrieve_export(services, caller, model, format)
