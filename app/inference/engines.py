"""Engines that workers have loaded, as an administrator sees them."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.auth import audit
from app.auth.caller import Caller
from app.base.errors import NotFound
from app.catalogue import service as catalogue
from app.http.pagination import Page
from app.inference import repository
from app.inference.engine_schemas import EngineChange, EngineObject, EngineUnloaded
from app.inference.repository import list_loaded as list_loaded
from app.models import Engine
from app.services import Services


def list_engines(services: Services, caller: Caller) -> Page[EngineObject]:
    with services.database.read() as session:
        rows = list_loaded(session, caller.administered_project)
        objects = _objects_of(session, rows)
    return Page[EngineObject].of(objects)


def change_engine(
    services: Services, caller: Caller, model_id: str, change: EngineChange
) -> EngineObject:
    with services.database.transaction() as session:
        engine = keep_loaded(session, model_id, change.keep_loaded)
        audit.record(session, caller, "engine.updated", model_id)
        return _objects_of(session, [engine])[0]


def unload_engine(services: Services, caller: Caller, model_id: str) -> EngineUnloaded:
    with services.database.transaction() as session:
        unload(session, model_id)
        audit.record(session, caller, "engine.deleted", model_id)
    return EngineUnloaded(id=model_id)


def keep_loaded(session: Session, model_id: str, keep: bool) -> Engine:
    """Exempt an engine from making room and from ending when idle, or no longer."""
    engine = repository.keep_loaded(session, model_id, keep)
    if engine is None:
        raise _unknown(model_id)
    return engine


def unload(session: Session, model_id: str) -> None:
    """End an engine with its worker's next heartbeat; answers that it streams end with an error. An
    engine that waits for a worker is not loaded.
    """
    if not repository.end(session, model_id):
        raise _unknown(model_id)


def _objects_of(session: Session, engines: Sequence[Engine]) -> list[EngineObject]:
    bases = catalogue.bases_of_adapters(session, [engine.model_id for engine in engines])
    return [EngineObject.of(engine, bases.get(engine.model_id)) for engine in engines]


def _unknown(model_id: str) -> NotFound:
    return NotFound(
        f"The model '{model_id}' is not loaded.", param="model", code="engine_not_found"
    )
