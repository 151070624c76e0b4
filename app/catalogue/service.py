"""Use cases of models."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from app.aliases import service as aliases
from app.auth import audit
from app.auth.caller import Caller
from app.base.database import Database
from app.base.errors import Forbidden, IllegalState, InvalidRequest, NotFound
from app.catalogue import naming, repository
from app.catalogue.listing import ModelLists
from app.catalogue.repository import ADAPTER as ADAPTER
from app.catalogue.repository import bases_of_adapters as bases_of_adapters
from app.catalogue.repository import present as present
from app.catalogue.repository import sizes as sizes
from app.catalogue.schemas import (
    NOT_SERVABLE,
    ModelDeleted,
    ModelObject,
    SharedForm,
    fields_of_alias,
)
from app.garbage import orphans
from app.models import Model
from app.models.alias import is_upstream
from app.services import Services
from app.usage import last_use
from falqon_core.contract.formats import NOT_TRAINABLE

USE_IS_NOTED_EVERY = timedelta(seconds=last_use.NOTED_EVERY_SECONDS)
MAX_OFFERED = 200  # number of base models, and of the project's own


@dataclass(frozen=True, slots=True)
class Newest:
    models: list[ModelObject]
    # Includes those that are not shown; above `app.base.database.MAX_COUNTED` there are more.
    num_models: int


def list_models(services: Services, caller: Caller, lists: ModelLists, *, adapters: bool) -> bytes:
    """Return the list of all models as JSON, from the cache if nothing changed. Without `adapters`,
    only complete models.
    """
    without = () if adapters else (NOT_SERVABLE,)
    with services.database.read() as session:
        names = aliases.list_visible(session, caller.project_id)
        return lists.page(session, caller.project_id, without, names)


def describe(session: Session, model: Model) -> ModelObject:
    """Return a model, with the way in which it answers."""
    described = ModelObject.of(model).model_copy(update={"replicas": model.replicas})
    if model.job_id is None or model.format is not None:
        return described
    shared = None
    if model.serve_as == "shared" and (found := repository.measured_adapter(session, model)):
        shared = SharedForm(model=found[0], bound=found[1])
    return described.model_copy(update={"serve_as": model.serve_as, "shared_form": shared})


def served_id(session: Session, model: Model) -> str:
    """Return the model whose engine answers for this one: its adapter, where it is shared."""
    if model.serve_as == "merged":
        return model.id
    found = repository.measured_adapter(session, model)
    return found[0] if found else model.id


def lock_base_of(session: Session, model: Model) -> bool:
    """Keep the base of a model until the transaction ends; return False where it is gone."""
    return repository.lock_in_any_project(session, model.base_model_id or "")


def is_measured(session: Session, model: Model) -> bool:
    """Return whether the distance of the model's adapter is known."""
    return repository.measured_adapter(session, model) is not None


def answers_for_another(session: Session, model: Model) -> bool:
    """Return whether a model answers with this adapter."""
    return repository.shared_model_of(session, model) is not None


def retrieve_model(services: Services, caller: Caller, model_id: str) -> ModelObject:
    """Return a model, also by an alias; the response has the model's own id, or the alias' if the
    model is an upstream's.
    """
    with services.database.read() as session:
        alias = aliases.find_visible(session, caller.project_id, model_id)
        if alias is None:
            return describe(session, get(session, caller.project_id, model_id))
        if is_upstream(alias.targets.heaviest):
            return ModelObject(**fields_of_alias(alias))
        return describe(session, get(session, caller.project_id, alias.targets.heaviest))


def delete_model(services: Services, caller: Caller, model_id: str) -> ModelDeleted:
    with services.database.transaction() as session:
        delete(
            session,
            caller.project_id,
            model_id,
            may_delete_bases=caller.administers_installation,
        )
        audit.record(session, caller, "model.deleted", model_id)
    return ModelDeleted(id=model_id)


def get(session: Session, project_id: str, model_id: str) -> Model:
    model = repository.find(session, project_id, model_id)
    if model is None:
        raise _unknown(model_id)
    return model


def exists(session: Session, model_id: str) -> bool:
    """Return whether any project has a model of this id."""
    model = repository.find_in_any_project(session, model_id)
    return model is not None and model.deleted_at is None


def newest(session: Session, project_id: str | None, *, limit: int, search: str = "") -> Newest:
    """Return some of the project's own models, the newest first; only those whose id contains
    `search`. None means the base models.
    """
    rows = repository.newest(session, project_id, limit=limit, search=search)
    num_models = len(rows)
    if num_models == limit:
        num_models = repository.num_like(session, project_id, search)
    return Newest([ModelObject.of(row) for row in rows], num_models)


def search(session: Session, project_id: str, text: str, *, limit: int) -> list[ModelObject]:
    """Find a model by its id, and others by a part of the id among the newest."""
    rows = repository.search(session, project_id, text, limit=limit)
    return [ModelObject.of(row) for row in rows]


def trainable(session: Session, project_id: str) -> list[str]:
    """Return the ids that a job may start from, for a form.

    Base models, then the newest of the project's own, oldest first.
    """
    parts = [
        repository.newest(session, owner, limit=MAX_OFFERED, without=NOT_TRAINABLE)
        for owner in (None, project_id)
    ]
    return [model.id for part in parts for model in reversed(part)]


def note_use(database: Database, model: Model) -> None:
    """Record a download or a question; it is written once an hour."""
    used_at = model.used_at
    if model.expires_at is None and used_at and datetime.now(UTC) - used_at < USE_IS_NOTED_EVERY:
        return
    with database.transaction() as session:
        last_use.note_use(session, model.id)


def is_trained_from(session: Session, model_id: str) -> bool:
    """Return whether a job of any project that has not ended needs the model."""
    return repository.live_job_from(session, model_id) is not None


def find_by_hub_id(session: Session, project_id: str, hub_id: str) -> Model:
    """Return the model that Hugging Face's libraries mean; they may use its own id as well."""
    model = repository.find(session, project_id, hub_id)
    if model is not None:
        return model
    if hub_id.startswith(naming.FINE_TUNED):
        ids = repository.find_ids(session, project_id, end=naming.end_of_id(hub_id))
    else:  # a project may have very many models
        ids = repository.ids_of_bases(session)
    alike = [model_id for model_id in ids if naming.hub_id(model_id) == hub_id]
    for model in repository.find_all(session, project_id, alike):
        return model
    raise _unknown(hub_id)


def versions_of(session: Session, project_id: str, model_id: str) -> dict[str, Model]:
    """Return the exports of a model, or of checkpoints of its job, by the suffix after the model's
    own id: `lora`, `ckpt-step-<n>`.
    """
    start = f"{model_id}:"
    ids = repository.find_ids(session, project_id, start=start)
    models = repository.find_all(session, project_id, ids)
    return {model.id.removeprefix(start): model for model in models}


def base_for_job(session: Session, project_id: str, model_id: str, *, lock: bool) -> Model:
    """Return a base model, or a fine-tuned one to continue; with `lock` it cannot be deleted."""
    model = (repository.find_to_use if lock else repository.find)(session, project_id, model_id)
    if model is None:
        raise InvalidRequest(
            f"model: there is no model '{model_id}' here; /v1/models lists them.",
            param="model",
            code="model_not_found",
        )
    if model.format in NOT_TRAINABLE:
        source = model_id.removesuffix(f":{model.format}")
        raise InvalidRequest(
            f"model: '{model_id}' is the {model.format} form of a model; "
            f"training starts from '{source}'.",
            param="model",
            code="model_not_trainable",
        )
    return model


def lock_fine_tuned(session: Session, project_id: str, model_id: str) -> Model:
    """Return the model of a job, which stays as it is until the transaction ends."""
    model = repository.find_to_delete(session, project_id, model_id)
    if model is None:
        raise _unknown(model_id)
    if model.job_id is None or model.format is not None:
        raise InvalidRequest(
            f"model: '{model_id}' is not the result of a fine-tuning job; only those can be served "
            "in two ways.",
            param="model",
            code="model_not_exportable",
        )
    return model


def delete_base(session: Session, project_id: str, model_id: str) -> None:
    """Delete a base model, and no other."""
    model = repository.find(session, project_id, model_id)
    if model is None or model.project_id is not None:
        raise _unknown(model_id)
    delete(session, project_id, model_id, may_delete_bases=True)


def delete(session: Session, project_id: str, model_id: str, *, may_delete_bases: bool) -> None:
    model = repository.find_to_delete(session, project_id, model_id)
    if model is None:
        raise _unknown(model_id)
    owner = model.project_id
    if owner is None and not may_delete_bases:
        raise Forbidden(
            f"'{model_id}' is a base model of this service; only an administrator of the whole "
            "service deletes it.",
            param="model",
            code="model_not_deletable",
        )
    if (used := repository.live_job_from(session, model_id)) is not None:
        job_id, user = used
        is_known = may_delete_bases or user == project_id
        raise IllegalState(
            f"The model is used by {job_id}, which has not ended; cancel the job first."
            if is_known
            else "The model is used by a job of another project, which has not ended.",
            param="model",
            code="model_in_use",
        )
    _refuse_named(session, project_id, model, sees_all=may_delete_bases)
    _refuse_shared(session, project_id, model, sees_all=may_delete_bases)
    repository.mark_deleted(session, owner, model_id)
    orphans.mark_orphaned(session, repository.storage_keys(session, owner, model_id))


def _refuse_named(session: Session, project_id: str, model: Model, *, sees_all: bool) -> None:
    """Refuse to delete a model that requests reach by another name."""
    names = aliases.names_of(session, model.id)
    if not names:
        return
    visible = [each.name for each in names if sees_all or each.project_id in (None, project_id)]
    raise IllegalState(
        f"The alias '{visible[0]}' stands for the model; change or delete the alias first."
        if visible
        else "An alias of another project stands for the model.",
        param="model",
        code="model_in_use",
    )


def _refuse_shared(session: Session, project_id: str, model: Model, *, sees_all: bool) -> None:
    """Refuse to delete an adapter that a model answers with, or a base that adapters are on."""
    message = None
    if (source := repository.shared_model_of(session, model)) is not None:
        message = f"'{source}' answers with this adapter; have it served merged first."
    elif (adapter := repository.adapter_on(session, model.id, project_id)) is not None:
        is_known = sees_all or adapter[1] == project_id
        message = (
            f"'{adapter[0]}' answers on the model; delete it, or have it served merged, first."
            if is_known
            else "An adapter of another project is on the model."
        )
    if message is not None:
        raise IllegalState(message, param="model", code="model_in_use")


def _unknown(model_id: str) -> NotFound:
    return NotFound(
        f"The model '{model_id}' does not exist.", param="model", code="model_not_found"
    )
