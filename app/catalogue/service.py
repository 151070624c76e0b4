from sqlalchemy.orm import Session

from app.catalogue import repository
from app.errors import Forbidden, InvalidRequest, NotFound
from app.models import Model


def get(session: Session, project_id: str, model_id: str) -> Model:
    model = repository.find(session, project_id, model_id)
    if model is None:
        raise NotFound(f"The model '{model_id}' does not exist.", param="model", code="model_not_found")
    return model


def base_for_job(session: Session, project_id: str, model_id: str) -> Model:
    model = repository.find(session, project_id, model_id)
    if model is None:
        raise InvalidRequest(f"model: there is no model '{model_id}' here; /v1/models lists them.", param="model", code="model_not_found")
    if model.base_model_id is not None:
        raise InvalidRequest(f"model: '{model_id}' is fine-tuned; start from a base model.", param="model", code="model_not_available")
    return model


def delete(session: Session, project_id: str, model_id: str) -> None:
    model = get(session, project_id, model_id)
    if model.project_id is None:
        raise Forbidden(f"'{model_id}' is a base model of this service and cannot be deleted through the API.", param="model")
    repository.mark_deleted(session, model_id)
