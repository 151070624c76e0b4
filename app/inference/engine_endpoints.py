from fastapi import APIRouter, Depends

from app.catalogue import service as catalogue
from app.catalogue.schemas import ModelChange, ModelObject
from app.exports import service as exports
from app.http.dependencies import InstallationAdmin, Reader, ServicesDep, Writer
from app.http.pagination import Page
from app.http.routes import ApiRoute
from app.inference import engines, replicas
from app.inference.engine_schemas import EngineChange, EngineObject, EngineUnloaded

router = APIRouter(prefix="/v1/engines", tags=["inference"], route_class=ApiRoute)


@router.get("")
def list_engines(services: ServicesDep, caller: Reader) -> Page[EngineObject]:
    """List the models that are loaded or loading, most recently used first: base models and the
    project's own; for an administrator of the installation, those of all projects.
    """
    return engines.list_engines(services, caller)


@router.post("/{model:path}")
def change_engine(
    services: ServicesDep, caller: InstallationAdmin, model: str, body: EngineChange
) -> EngineObject:
    """Keep a model loaded, or stop doing so."""
    return engines.change_engine(services, caller, model, body)


@router.delete("/{model:path}")
def unload_engine(services: ServicesDep, caller: InstallationAdmin, model: str) -> EngineUnloaded:
    """Unload a model, with its worker's next heartbeat; one that waits for a worker is no longer
    to be loaded. Streams of it end with an error.
    """
    return engines.unload_engine(services, caller, model)


model_router = APIRouter(prefix="/v1/models", tags=["models"], route_class=ApiRoute)


def _find_model(services: ServicesDep, caller: Writer, model: str) -> None:
    # Before the body is looked at: a path that only other methods have ends here, too.
    catalogue.retrieve_model(services, caller, model)


@model_router.post("/{model:path}", dependencies=[Depends(_find_model)])
def change_model(
    services: ServicesDep, caller: Writer, model: str, body: ModelChange
) -> ModelObject:
    """Choose how a model answers. `serve_as`, for a fine-tuned one: merged, from weights of its
    own, or shared, as an adapter on its base. A worker makes the adapter and measures how far its
    answers are; until then the merged model answers, and `shared_form` is null. `replicas`: engines
    that answer at once, each on a worker of its own; those beyond the number end once they have
    answered.
    """
    if body.serve_as is not None:
        changed = exports.set_serving(services, caller, model, body.serve_as)
    if body.replicas is not None:
        changed = replicas.set_replicas(services, caller, model, body.replicas)
    return changed
