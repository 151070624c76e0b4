"""Number of engines that answer for a model at once."""

from app.auth import audit
from app.auth.caller import Caller
from app.base.errors import Forbidden, InvalidRequest
from app.catalogue import service as catalogue
from app.catalogue.schemas import NOT_SERVABLE, ModelObject, engine_note_of
from app.inference import repository
from app.models import Engine, Model
from app.services import Services


def set_replicas(services: Services, caller: Caller, model_id: str, replicas: int) -> ModelObject:
    """Set the replicas of a model, and of the adapter that it answers with. A loaded one gets its
    further engines at once; engines beyond the number end once they have answered.
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
        served = session.get_one(Model, catalogue.served_id(session, model))
        for id_ in sorted({model.id, served.id}):
            repository.lock(session, id_)
        if {model.replicas, served.replicas} != {replicas}:
            model.replicas = served.replicas = replicas
            session.flush()
            for each in {model, served}:
                repository.drop_surplus(session, each)
                if repository.is_loaded(session, each.id):
                    is_new |= repository.request_engine(session, each.id)
            audit.record(session, caller, "model.updated", model_id)
        changed = catalogue.describe(session, model)
    if is_new:
        services.notifier.notify(Engine, model_id)
    return changed
