from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import (
    JSON,
    ColumnElement,
    Row,
    Select,
    delete,
    extract,
    func,
    or_,
    select,
    tuple_,
    type_coerce,
    union_all,
    update,
)
from sqlalchemy.orm import Session

from app.base.database import MAX_COUNTED, NUM_SEARCHED, UNSYNCED, now_plus
from app.models import Artifact, DatasetStatistics, Export, Job, Model, OperationStatus
from app.models.base import JsonObject
from app.models.job_lifecycle import LIVE
from falqon_core.contract.formats import FormatName
from falqon_core.contract.gguf_support import ENGINE_KEYS
from falqon_core.contract.rounding import Rounding

ADAPTER: FormatName = "gguf_lora"  # the form that engines put on a base
ROWS_AT_ONCE = 1_000


class ListedModel(NamedTuple):
    """Model as listed; of its `config`, which is long, only the parts that decide its engine."""

    id: str
    project_id: str | None
    base_model_id: str | None
    job_id: str | None
    format: str | None
    bytes: int
    created_at: datetime
    config: JsonObject


class ListVersion(NamedTuple):
    """Version of a project's model list: it changes whenever the list does; an export that was
    deleted may come back.
    """

    num_models: int  # deleted models included, whose rows stay
    num_deleted: int
    deleted_at: Decimal | int | None  # sum over all, in seconds


_LISTED: tuple[Any, ...] = (
    Model.id,
    Model.project_id,
    Model.base_model_id,
    Model.job_id,
    Model.format,
    Model.bytes,
    Model.created_at,
    *(type_coerce(Model.config, JSON)[key].label(f"config_{key}") for key in ENGINE_KEYS),
)


def tally(session: Session, project_id: str | None) -> ListVersion:
    """Return the version of the list. None means the base models, here and below."""
    columns = (
        func.count(),
        func.count(Model.deleted_at),
        func.sum(extract("epoch", Model.deleted_at)),
    )
    return ListVersion(*session.execute(select(*columns).where(_belongs_to(project_id))).one())


def list_models(
    session: Session,
    project_id: str | None,
    *,
    without: Sequence[str],
    after: tuple[datetime, str],
    limit: int,
) -> list[ListedModel]:
    """Return the models made after the given time, oldest first, except those of some formats."""
    later = tuple_(Model.created_at, Model.id) > after
    statement = _without(_list(project_id), without).where(later)
    rows = session.execute(statement.order_by(Model.created_at, Model.id).limit(limit))
    return [_to_listed(row) for row in rows]


def list_in_parts(
    session: Session, project_id: str | None, *, without: Sequence[str]
) -> Iterator[list[ListedModel]]:
    """Read all models except some formats, oldest first."""
    statement = _without(_list(project_id), without)
    rows = session.execute(statement.order_by(Model.created_at, Model.id))
    for part in rows.partitions(ROWS_AT_ONCE):
        yield [_to_listed(row) for row in part]


def newest(
    session: Session,
    project_id: str | None,
    *,
    limit: int,
    search: str = "",
    without: Sequence[str] = (),
) -> list[ListedModel]:
    """Read the newest first: those whose id contains the text, except some formats."""
    statement = _without(_filter_by_search(_list(project_id), search), without).order_by(
        Model.created_at.desc(), Model.id.desc()
    )
    return [_to_listed(row) for row in session.execute(statement.limit(limit))]


def search(session: Session, project_id: str, text: str, *, limit: int) -> list[ListedModel]:
    """Find a model by its id, and others by a part of the id among the project's newest and the
    newest base models.
    """
    rows = session.execute(
        select(*_LISTED).where(
            Model.id == text,
            or_(Model.project_id.is_(None), Model.project_id == project_id),
            Model.deleted_at.is_(None),
        )
    ).all()
    for owner in (project_id, None):
        newest = _list(owner).order_by(Model.created_at.desc(), Model.id.desc())
        some = newest.limit(NUM_SEARCHED).subquery()
        alike = select(some).where(some.c.id.icontains(text, autoescape=True), some.c.id != text)
        rows = [*rows, *session.execute(alike.order_by(some.c.created_at.desc()).limit(limit))]
    return [_to_listed(row) for row in rows[:limit]]


def num_like(session: Session, project_id: str | None, search: str = "") -> int:
    """Count them; above `MAX_COUNTED` there are more."""
    some = _filter_by_search(
        select(Model.project_id).where(_belongs_to(project_id), Model.deleted_at.is_(None)), search
    )
    return (
        session.scalar(select(func.count()).select_from(some.limit(MAX_COUNTED + 1).subquery()))
        or 0
    )


def present(session: Session, project_id: str, model_ids: Sequence[str]) -> set[str]:
    """Return the ids that exist, for this project or for all."""
    visible = or_(Model.project_id.is_(None), Model.project_id == project_id)
    return set(
        session.scalars(
            select(Model.id).where(visible, Model.id.in_(model_ids), Model.deleted_at.is_(None))
        )
    )


def sizes(session: Session, project_id: str, model_ids: Sequence[str]) -> dict[str, int]:
    """Return the bytes of the models that exist."""
    statement = select(Model.id, Model.bytes).where(
        Model.project_id == project_id, Model.id.in_(model_ids), Model.deleted_at.is_(None)
    )
    return dict(session.execute(statement).all())


def add(session: Session, model: Model, artifacts: Sequence[Artifact]) -> None:
    session.add(model)
    session.flush()
    session.add_all(artifacts)


def add_base(session: Session, model: Model, artifacts: Sequence[Artifact]) -> None:
    """Add a base model; a deleted one with the same id is replaced, including its counts."""
    is_deleted = (Model.id == model.id, Model.project_id.is_(None), Model.deleted_at.is_not(None))
    deleted = session.scalars(select(Model).where(*is_deleted).with_for_update()).one_or_none()
    if deleted is None:
        add(session, model, artifacts)
        return
    for kind in (Artifact, DatasetStatistics):
        session.execute(delete(kind).where(kind.model_id == model.id), execution_options=UNSYNCED)
    deleted.config, deleted.bytes = model.config, model.bytes
    deleted.created_at, deleted.used_at, deleted.deleted_at = now_plus(), None, None
    deleted.replicas = 1
    session.flush()
    session.add_all(artifacts)


def find(session: Session, project_id: str, model_id: str) -> Model | None:
    return session.scalars(_visible(project_id, model_id)).one_or_none()


def find_in_any_project(session: Session, model_id: str) -> Model | None:
    """Return the model, even a deleted one. No user names it: a worker does, by a row it has."""
    return session.get(Model, model_id)


def find_ids(session: Session, project_id: str, *, start: str = "", end: str = "") -> list[str]:
    """Return the ids that begin and end so of models that the project has or uses, deleted ones
    among them. An index holds all that is read, while rows are long; a condition on both owners
    would read rows. A range of the primary key will not do: collations may take no note of colons.
    """
    alike = (Model.id.startswith(start, autoescape=True), Model.id.endswith(end, autoescape=True))
    statements = [select(Model.id).where(_belongs_to(each), *alike) for each in (None, project_id)]
    ids = session.scalars(union_all(*statements))
    return [each for each in ids if each.startswith(start)]  # SQLite takes no note of case


def ids_of_bases(session: Session) -> list[str]:
    """Return the ids of the base models, deleted ones among them."""
    return list(session.scalars(select(Model.id).where(_belongs_to(None))))


def find_all(session: Session, project_id: str, ids: Sequence[str]) -> Sequence[Model]:
    """Return the models of these ids, the oldest first."""
    if not ids:
        return []
    statement = _of(project_id).where(Model.id.in_(ids))
    return session.scalars(statement.order_by(Model.created_at, Model.id)).all()


def find_to_use(session: Session, project_id: str, model_id: str) -> Model | None:
    """Return the model and lock it: it is not deleted before the transaction ends."""
    return session.scalars(_visible(project_id, model_id).with_for_update(read=True)).one_or_none()


def lock_in_any_project(session: Session, model_id: str) -> bool:
    """Return False for a model that has been deleted; else it is not before the transaction ends.
    No user names it.
    """
    is_there = (Model.id == model_id, Model.deleted_at.is_(None))
    statement = select(Model.id).where(*is_there).with_for_update(read=True)
    return session.scalar(statement) is not None


def find_to_delete(session: Session, project_id: str, model_id: str) -> Model | None:
    """Return the model and lock it, so that no job begins to use it before the transaction ends."""
    return session.scalars(_visible(project_id, model_id).with_for_update()).one_or_none()


def live_job_from(session: Session, model_id: str) -> tuple[str, str] | None:
    """Return the id and the project of an active job that needs the model: of any project, as a
    permitted checkpoint lets others train on it, too.
    """
    needs_it = (Job.base_model_id == model_id, Job.status.in_(LIVE))
    row = session.execute(select(Job.id, Job.project_id).where(*needs_it).limit(1)).one_or_none()
    return None if row is None else (row[0], row[1])


def measured_adapter(session: Session, model: Model) -> tuple[str, Rounding] | None:
    """Return the adapter that a model can be answered with, and how far its answers are."""
    measured = (
        Export.project_id == model.project_id,
        Export.source == model.id,
        Export.format == ADAPTER,
        Export.status == OperationStatus.COMPLETED,
        Model.deleted_at.is_(None),
    )
    statement = select(Model.id, Export.rounding).join(Model, Model.id == Export.exported_model_id)
    row = session.execute(statement.where(*measured)).one_or_none()
    return None if row is None or row[1] is None else (row[0], row[1])


def shared_model_of(session: Session, adapter: Model) -> str | None:
    """Return the model that answers with an adapter."""
    is_of_it = (Export.exported_model_id == adapter.id, Export.format == ADAPTER)
    statement = select(Model.id).join(Export, Export.source == Model.id).where(*is_of_it)
    is_served = (Model.serve_as == "shared", Model.deleted_at.is_(None))
    return session.scalar(statement.where(*is_served, Export.project_id == Model.project_id))


def has_adapters(session: Session, base_id: str) -> bool:
    return bool(session.scalar(select(_on(base_id).exists())))


def adapter_on(session: Session, base_id: str, project_id: str) -> tuple[str, str | None] | None:
    """Return the id and the project of a model that answers on a base, one of this project
    first.
    """
    statement = _on(base_id).order_by(Model.project_id != project_id, Model.id).limit(1)
    row = session.execute(statement).one_or_none()
    return None if row is None else (row[0], row[1])


def bases_of_adapters(session: Session, model_ids: Sequence[str]) -> dict[str, str | None]:
    """Return the bases of those that are adapters for engines."""
    are_adapters = (Model.id.in_(model_ids), Model.format == ADAPTER)
    return dict(session.execute(select(Model.id, Model.base_model_id).where(*are_adapters)).all())


def _on(base_id: str) -> Select[str, str | None]:
    answers = or_(Model.format == ADAPTER, Model.serve_as == "shared")
    is_on_it = (Model.base_model_id == base_id, Model.deleted_at.is_(None), answers)
    return select(Model.id, Model.project_id).where(*is_on_it)


def mark_deleted(session: Session, project_id: str | None, model_id: str) -> None:
    session.execute(
        update(Model)
        .where(Model.id == model_id, _belongs_to(project_id))
        .values(deleted_at=now_plus(), expires_at=None)
    )


def storage_keys(session: Session, project_id: str | None, model_id: str) -> Sequence[str]:
    mine = select(Artifact.storage_key).join(Model, Model.id == Artifact.model_id)
    return session.scalars(mine.where(Model.id == model_id, _belongs_to(project_id))).all()


def _belongs_to(project_id: str | None) -> ColumnElement[bool]:
    if project_id is None:
        return Model.project_id.is_(None)
    return Model.project_id == project_id


def _list(project_id: str | None) -> Select[Any]:
    return select(*_LISTED).where(_belongs_to(project_id), Model.deleted_at.is_(None))


def _to_listed(row: Row[Any]) -> ListedModel:
    num_columns = len(row) - len(ENGINE_KEYS)
    config = dict(zip(ENGINE_KEYS, row[num_columns:], strict=True))
    return ListedModel._make((*row[:num_columns], config))


def _without(statement: Select[Any], formats: Sequence[str]) -> Select[Any]:
    if not formats:
        return statement
    return statement.where(or_(Model.format.is_(None), Model.format.not_in(formats)))


def _filter_by_search(statement: Select[Any], search: str) -> Select[Any]:
    if search:
        return statement.where(Model.id.icontains(search, autoescape=True))
    return statement


def _visible(project_id: str, model_id: str) -> Select[Model]:
    return _of(project_id).where(Model.id == model_id)


def _of(project_id: str) -> Select[Model]:
    return select(Model).where(
        or_(Model.project_id.is_(None), Model.project_id == project_id), Model.deleted_at.is_(None)
    )
