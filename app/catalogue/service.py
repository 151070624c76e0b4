from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy.orm import Session

from app.catalogue import naming, repository
from app.catalogue.schemas import ModelObject
from app.errors import Forbidden, IllegalState, InvalidRequest, NotFound
from app.garbage import orphans
from app.models import Model

NOT_TRAINABLE = ("lora", "gguf")
MAX_OFFERED = 200  # of base models, and of the project's own


class Newest(NamedTuple):
    models: list[ModelObject]
    num_models: int  # with those that are not shown; above `app.jobs.listing.MAX_COUNTED` there are more


def get(session: Session, project_id: str, model_id: str) -> Model:
    model = repository.find(session, project_id, model_id)
    if model is None:
        raise _unknown(model_id)
    return model


def newest(session: Session, project_id: str | None, *, limit: int, search: str = "") -> Newest:
    """Some of the project's own models, the newest first; those whose id has `search` in it. None means the base models."""
    models = [ModelObject.of(one) for one in repository.newest(session, project_id, limit=limit, search=search)]
    return Newest(models, repository.num_like(session, project_id, search) if len(models) == limit else len(models))


def present(session: Session, project_id: str, model_ids: Sequence[str]) -> set[str]:
    """Those of the project's own models that are there."""
    return repository.present(session, project_id, model_ids)


def trainable(session: Session, project_id: str) -> list[str]:
    """Those that a job may start from, as a form offers them: base models, then the newest of the project's own, oldest first."""
    parts = [repository.newest(session, owner, limit=MAX_OFFERED, without=NOT_TRAINABLE) for owner in (None, project_id)]
    return [model.id for part in parts for model in reversed(part)]


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
