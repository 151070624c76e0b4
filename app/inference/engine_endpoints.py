from fastapi import APIRouter

from app.http.dependencies import InstallationAdmin, Reader, ServicesDep
from app.http.pagination import Page
from app.http.routes import ApiRoute
from app.inference import engines
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
