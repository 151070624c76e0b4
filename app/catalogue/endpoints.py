from fastapi import APIRouter

from app.catalogue import repository, service
from app.catalogue.schemas import ModelDeleted, ModelObject
from app.dependencies import ApiRoute, App, Reader, Writer
from app.pagination import Page

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=ApiRoute)


@router.get("")
def list_models(app: App, caller: Reader) -> Page[ModelObject]:
    with app.database.read() as session:
        return Page[ModelObject].of([ModelObject.of(model) for model in repository.visible(session, caller.project_id)])


@router.get("/{model:path}")
def retrieve_model(app: App, caller: Reader, model: str) -> ModelObject:
    with app.database.read() as session:
        return ModelObject.of(service.get(session, caller.project_id, model))


@router.delete("/{model:path}")
def delete_model(app: App, caller: Writer, model: str) -> ModelDeleted:
    with app.database.transaction() as session:
        service.delete(session, caller.project_id, model)
    return ModelDeleted(id=model)
