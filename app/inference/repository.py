"""Engines from the API's side; `claims` is the worker's side."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, exists, func, or_, select, update
from sqlalchemy.orm import Session

from app.base.database import UNSYNCED, insert_or, now_plus
from app.models import Engine, EngineState, Model, Project
from app.operations import leases

USE_IS_NOTED_EVERY_SECONDS = 5.0
MAX_LISTED = 1000
ENGINES_LOCK = 0x656E67  # any number, as long as no other lock of two numbers uses it
ON_A_WORKER = (EngineState.LOADING, EngineState.READY)
# Columns of an engine that workers may load, whatever they said before.
UNDECLINED: dict[str, None] = {"declined_by": None, "error_code": None, "error_message": None}


class ReadyEngine(NamedTuple):
    engine: Engine
    use_is_due: bool  # last use is due to be recorded


def find(session: Session, model_id: str) -> Sequence[Engine]:
    """Return the engines of a model in the order of their numbers, without surplus ones."""
    statement = select(Engine).join(Model, Model.id == Engine.model_id)
    wanted = statement.where(Engine.model_id == model_id, Engine.replica < Model.replicas)
    return session.scalars(wanted.order_by(Engine.replica)).all()


def find_ready(session: Session, model: Model) -> list[ReadyEngine]:
    """Return the engines of a model that are ready; surplus ones only if there are no others."""
    is_ready = (
        Engine.model_id == model.id,
        Engine.state == EngineState.READY,
        Engine.lease_expires_at >= now_plus(),
    )
    use_is_due = Engine.used_at < now_plus(-USE_IS_NOTED_EVERY_SECONDS)
    statement = select(Engine, use_is_due).where(*is_ready).order_by(Engine.replica)
    # An engine that the session has read before may have become ready, with an address, meanwhile.
    fresh = session.execute(statement, execution_options={"populate_existing": True})
    ready = [ReadyEngine(*row) for row in fresh]
    return [each for each in ready if each.engine.replica < model.replicas] or ready


def is_private(session: Session, model: Model) -> bool:
    """Return True if only one project can have used the model: it is its own, or the only one."""
    if model.project_id is not None:
        return True
    return len(session.scalars(select(Project.id).limit(2)).all()) == 1


def request_engine(session: Session, model_id: str, *, is_patient: bool = False) -> bool:
    """Have as many engines of the model loaded as it has replicas, but those that live workers
    have; return True if workers are to be notified.

    An engine that has failed, or whose worker has been silent for a lease, waits for a worker
    again. `is_patient`: a batch asks for it.
    """
    lock(session, model_id)
    of_model = Engine.model_id == model_id
    num_replicas = session.scalar(select(Model.replicas).where(Model.id == model_id)) or 1
    row = {
        "model_id": model_id,
        "state": EngineState.WAITING,
        "used_at": now_plus(),
        "attempt": 0,
        "is_patient": is_patient,
        "keep_loaded": exists().where(of_model, Engine.keep_loaded),
    }
    rows = [row | {"replica": replica} for replica in range(num_replicas)]
    insert = insert_or(session, Engine).values(rows).on_conflict_do_nothing()
    is_new = bool(session.scalars(insert.returning(Engine.replica)).all())
    is_gone = and_(Engine.state.in_(ON_A_WORKER), Engine.lease_expires_at < now_plus())
    is_over = or_(Engine.state == EngineState.FAILED, is_gone)
    if not is_patient:  # one that waits, or is being loaded, is patient no longer
        hurried = update(Engine).where(of_model, Engine.is_patient)
        session.execute(hurried.values(is_patient=False), execution_options=UNSYNCED)
    again = {"state": EngineState.WAITING, "is_patient": is_patient, **UNDECLINED}
    statement = update(Engine).where(of_model, Engine.replica < num_replicas, is_over)
    statement = statement.values(used_at=now_plus(), **again).returning(Engine.replica)
    is_again = bool(session.scalars(statement, execution_options=UNSYNCED).all())
    if not (is_new or is_again):
        is_declined = (Engine.state == EngineState.WAITING, Engine.declined_by.is_not(None))
        declined = update(Engine).where(of_model, *is_declined).values(used_at=now_plus())
        session.execute(declined, execution_options=UNSYNCED)
    return is_new or is_again


def note_use(session: Session, engine: Engine) -> None:
    """Keep an engine loaded, and the model's others unless they are surplus."""
    lock(session, engine.model_id)
    replicas = select(Model.replicas).where(Model.id == engine.model_id).scalar_subquery()
    is_kept = or_(Engine.replica == engine.replica, Engine.replica < replicas)
    used = update(Engine).where(Engine.model_id == engine.model_id, is_kept)
    session.execute(used.values(used_at=now_plus()), execution_options=UNSYNCED)


def give_up(session: Session, engine: Engine) -> None:
    """Let another worker load an engine that does not respond any more."""
    statement = update(Engine).where(*leases.is_attempt(engine), Engine.state == EngineState.READY)
    session.execute(statement.values(lease_expires_at=now_plus(-1)), execution_options=UNSYNCED)


def lock(session: Session, model_id: str) -> None:
    """Have transactions that change several engines of a model pass one after the other, so that
    two do not wait for each other. The engines' own rows would not do: one that comes meanwhile is
    in no order. SQLite serializes transactions anyhow.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(ENGINES_LOCK, func.hashtext(model_id))))


def is_loaded(session: Session, model_id: str) -> bool:
    """Return whether the model is loaded, or about to be."""
    return bool(
        session.scalar(select(exists().where(Engine.model_id == model_id, _is_requested())))
    )


def drop_surplus(session: Session, model: Model) -> None:
    """Have surplus engines end once they have answered: none is to stay loaded, and those that wait
    are not loaded.
    """
    lock(session, model.id)
    surplus = update(Engine).where(Engine.model_id == model.id, Engine.replica >= model.replicas)
    session.execute(surplus.values(keep_loaded=False), execution_options=UNSYNCED)
    waiting = surplus.where(Engine.state == EngineState.WAITING)
    # Not deleted: the number of its attempt fences out workers that come back.
    session.execute(waiting.values(state=EngineState.FAILED), execution_options=UNSYNCED)


def list_loaded(session: Session, project_id: str | None) -> Sequence[Engine]:
    """Return the engines of base models and of the project's own that are loaded or about to be,
    those used last first; with a project of None those of every project.
    """
    is_wanted = or_(Engine.replica < Model.replicas, Engine.state.in_(ON_A_WORKER))
    statement = select(Engine).join(Model, Model.id == Engine.model_id)
    statement = statement.where(_is_requested(), is_wanted)
    if project_id is not None:
        statement = statement.where(or_(Model.project_id.is_(None), Model.project_id == project_id))
    order = (Engine.used_at.desc(), Engine.model_id, Engine.replica)
    return session.scalars(statement.order_by(*order).limit(MAX_LISTED)).all()


def keep_loaded(session: Session, model_id: str, keep: bool) -> Engine | None:
    """Change the engines of a model, and return the first of them."""
    lock(session, model_id)
    statement = update(Engine).where(Engine.model_id == model_id, _is_requested())
    kept = session.scalars(
        statement.values(keep_loaded=keep).returning(Engine), execution_options=UNSYNCED
    )
    return min(kept, key=lambda engine: engine.replica, default=None)


def end(session: Session, model_id: str) -> bool:
    """Take the leases from the workers, which end the engines with their next heartbeats; a waiting
    engine is not loaded until the next request. Return False if there is neither.
    """
    lock(session, model_id)
    statement = update(Engine).where(Engine.model_id == model_id, _is_requested())
    # Not deleted: the number of its attempt fences out workers that come back.
    gone = {"state": EngineState.LOADING, "lease_expires_at": now_plus(-1)}
    ended = statement.values(**gone, keep_loaded=False)
    returned = session.scalars(ended.returning(Engine.replica), execution_options=UNSYNCED)
    return bool(returned.all())


def _is_requested() -> ColumnElement[bool]:
    is_alive = and_(Engine.state.in_(ON_A_WORKER), Engine.lease_expires_at >= now_plus())
    return or_(Engine.state == EngineState.WAITING, is_alive)
