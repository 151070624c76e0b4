from fastapi import APIRouter

from app.catalogue.schemas import ModelObject
from app.http.dependencies import ServicesDep, Writer
from app.http.routes import ApiRoute
from app.inference import replicas
from app.inference.engine_schemas import ModelChange

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=ApiRoute)


@router.post("/{model:path}")
def change_model(
    services: ServicesDep, caller: Writer, model: str, body: ModelChange
) -> ModelObject:
    """Set how many engines answer for a model at once, each on a worker of its own. Those beyond
    the number end once they have answered.
    """
    return replicas.change_model(services, caller, model, body)
