"""What callers do with models."""

from app.auth import audit
from app.auth.caller import Caller
from app.catalogue import service
from app.catalogue.listing import ModelLists
from app.catalogue.schemas import NOT_SERVABLE, ModelDeleted, ModelObject
from app.services import Services


def list_models(services: Services, caller: Caller, lists: ModelLists, *, adapters: bool) -> bytes:
    """Return the list of all models as JSON, from what is encoded already where nothing changed.
    Without `adapters`, of those that are models by themselves.
    """
    without = () if adapters else (NOT_SERVABLE,)
    with services.database.read() as session:
        return lists.page(session, caller.project_id, without)


def retrieve_model(services: Services, caller: Caller, model_id: str) -> ModelObject:
    """Return a model, also by an alias; the answer has the model's own id."""
    name = services.settings.model_named(model_id)
    with services.database.read() as session:
        return ModelObject.of(service.get(session, caller.project_id, name))


def delete_model(services: Services, caller: Caller, model_id: str) -> ModelDeleted:
    with services.database.transaction() as session:
        service.delete(
            session,
            caller.project_id,
            model_id,
            may_delete_bases=caller.administers_installation,
        )
        audit.record(session, caller, "model.deleted", model_id)
    return ModelDeleted(id=model_id)
