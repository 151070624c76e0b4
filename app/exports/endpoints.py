from fastapi import APIRouter

from app.catalogue.schemas import ModelObject
from app.exports import service
from app.exports.schemas import ExportObject, ExportRequest, ModelChange
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


model_router = APIRouter(prefix="/v1/models", tags=["models"], route_class=ApiRoute)


@model_router.post("/{model:path}")
def change_model(
    services: ServicesDep, caller: Writer, model: str, body: ModelChange
) -> ModelObject:
    """Choose how a fine-tuned model answers: merged, from weights of its own, or shared, as an
    adapter on its base. A worker makes the adapter and measures how far its answers are; until
    then the merged model answers, and `shared_form` is null.
    """
    return service.change_model(services, caller, model, body)
