from fastapi import APIRouter, Response

from app.catalogue import service
from app.catalogue.schemas import ModelDeleted, ModelObject
from app.http.dependencies import ApiRoute, App, Reader, Writer
from app.http.pagination import Page

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=ApiRoute)


@router.get("", response_model=Page[ModelObject])
def list_models(app: App, caller: Reader) -> Response:
    with app.database.read() as session:
        return Response(app.model_lists.page(session, caller.project_id), media_type="application/json")


@router.get("/{model:path}")
def retrieve_model(app: App, caller: Reader, model: str) -> ModelObject:
    with app.database.read() as session:
        return ModelObject.of(service.get(session, caller.project_id, model))


@router.delete("/{model:path}")
def delete_model(app: App, caller: Writer, model: str) -> ModelDeleted:
    with app.database.transaction() as session:
        service.delete(session, caller.project_id, model)
    return ModelDeleted(id=model)
