from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.catalogue import service
from app.catalogue.schemas import ModelDeleted, ModelObject
from app.http.dependencies import InferenceCaller, ServicesDep, Writer
from app.http.pagination import Page
from app.http.routes import ApiRoute

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=ApiRoute)


@router.get("", response_model=Page[ModelObject])
def list_models(
    services: ServicesDep,
    caller: InferenceCaller,
    request: Request,
    adapters: Annotated[
        bool, Query(description="list adapters, too, which cannot be used by themselves")
    ] = False,
) -> Response:
    models = service.list_models(services, caller, request.app.state.model_lists, adapters=adapters)
    return Response(models, media_type="application/json")


@router.get("/{model:path}")
def retrieve_model(services: ServicesDep, caller: InferenceCaller, model: str) -> ModelObject:
    return service.retrieve_model(services, caller, model)


@router.delete("/{model:path}")
def delete_model(services: ServicesDep, caller: Writer, model: str) -> ModelDeleted:
    return service.delete_model(services, caller, model)
