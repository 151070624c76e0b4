from sqlalchemy.orm import Session

from app import orphans
from app.catalogue import naming, repository
from app.errors import Forbidden, IllegalState, InvalidRequest, NotFound
from app.models import Model

NOT_TRAINABLE = ("lora", "gguf")


def get(session: Session, project_id: str, model_id: str) -> Model:
    model = repository.find(session, project_id, model_id)
    if model is None:
        raise _unknown(model_id)
    return model


def trainable(session: Session, project_id: str) -> list[Model]:
    """Those that a job may start from."""
    return [model for model in repository.visible(session, project_id) if model.format not in NOT_TRAINABLE]


def by_hub_id(session: Session, project_id: str, hub_id: str) -> Model:
    """The model that Hugging Face's libraries mean; its own id is as good where they take it."""
    found = repository.find(session, project_id, hub_id)
    if found is None:
        end = f":{hub_id.rpartition('-')[2]}" if hub_id.startswith(naming.FINE_TUNED) else ""
        found = next((model for model in repository.like(session, project_id, end=end) if naming.hub_id(model.id) == hub_id), None)
    if found is None:
        raise _unknown(hub_id)
    return found


def versions_of(session: Session, project_id: str, model_id: str) -> dict[str, Model]:
    """What was made of a model, or of checkpoints of its job, by what follows the model's own id in theirs: `lora`, `ckpt-step-<n>`."""
    start = f"{model_id}:"
    return {model.id.removeprefix(start): model for model in repository.like(session, project_id, start=start)}


def base_for_job(session: Session, project_id: str, model_id: str, *, lock: bool) -> Model:
    """A base model, or a fine-tuned one that training continues from; with `lock` it stays."""
    model = (repository.find_to_use if lock else repository.find)(session, project_id, model_id)
    if model is None:
        raise InvalidRequest(f"model: there is no model '{model_id}' here; /v1/models lists them.", param="model", code="model_not_found")
    if model.format in NOT_TRAINABLE:
        source = model_id.removesuffix(f":{model.format}")
        raise InvalidRequest(
            f"model: '{model_id}' is the {model.format} form of a model; training starts from '{source}'.",
            param="model",
            code="model_not_trainable",
        )
    return model


def delete(session: Session, project_id: str, model_id: str) -> None:
    model = repository.find_to_delete(session, project_id, model_id)
    if model is None:
        raise _unknown(model_id)
    if model.project_id is None:
        raise Forbidden(
            f"'{model_id}' is a base model of this service and cannot be deleted through the API.",
            param="model",
            code="model_not_deletable",
        )
    job_id = repository.live_job_from(session, project_id, model_id)
    if job_id is not None:
        raise IllegalState(f"The model is used by {job_id}, which has not ended; cancel the job first.", param="model", code="model_in_use")
    repository.mark_deleted(session, project_id, model_id)
    orphans.abandon(session, repository.storage_keys(session, project_id, model_id))


def _unknown(model_id: str) -> NotFound:
    return NotFound(f"The model '{model_id}' does not exist.", param="model", code="model_not_found")
