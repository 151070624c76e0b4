"""What callers do with loaded models; each function is one unit of work."""

from app.auth import audit
from app.auth.caller import Caller
from app.http.pagination import Page
from app.inference import engines
from app.inference.engine_schemas import EngineChange, EngineObject, EngineUnloaded
from app.services import Services


def list_engines(services: Services, caller: Caller) -> Page[EngineObject]:
    with services.database.read() as session:
        rows = engines.list_loaded(session, caller.administered_project)
    return Page[EngineObject].of([EngineObject.of(row) for row in rows])


def change_engine(
    services: Services, caller: Caller, model_id: str, change: EngineChange
) -> EngineObject:
    with services.database.transaction() as session:
        engine = engines.keep_loaded(session, model_id, change.keep_loaded)
        audit.record(session, caller, "engine.updated", model_id)
        return EngineObject.of(engine)


def unload_engine(services: Services, caller: Caller, model_id: str) -> EngineUnloaded:
    with services.database.transaction() as session:
        engines.unload(session, model_id)
        audit.record(session, caller, "engine.deleted", model_id)
    return EngineUnloaded(id=model_id)
