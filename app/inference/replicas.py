"""Number of engines that answer for a model at once."""

from app.auth import audit
from app.auth.caller import Caller
from app.base.errors import Forbidden, InvalidRequest
from app.catalogue import service as catalogue
from app.catalogue.schemas import NOT_SERVABLE, ModelObject, engine_note_of
from app.inference import repository
from app.inference.engine_schemas import ModelChange
from app.models import Engine
from app.services import Services


def change_model(
    services: Services, caller: Caller, model_id: str, change: ModelChange
) -> ModelObject:
    """Set the replicas of a model. A loaded one gets its further engines at once; engines beyond
    the number end once they have answered.
    """
    is_new = False
    with services.database.transaction() as session:
        model = catalogue.get(session, caller.project_id, model_id)
        if model.project_id is None and not caller.administers_installation:
            raise Forbidden(
                f"'{model_id}' is a base model of this service; only an administrator of the whole "
                "service sets its replicas.",
                param="model",
                code="model_not_changeable",
            )
        if model.format == NOT_SERVABLE:
            raise InvalidRequest(
                f"model: {engine_note_of(model)}", param="model", code="model_not_servable"
            )
        if model.replicas != change.replicas:
            model.replicas = change.replicas
            session.flush()
            repository.drop_surplus(session, model)
            if repository.is_loaded(session, model_id):
                is_new = repository.request_engine(session, model_id)
            audit.record(session, caller, "model.updated", model_id)
        changed = ModelObject.of(model)
    if is_new:
        services.notifier.notify(Engine, model_id)
    return changed
