"""Leases of engines, from the worker's side: each change a single guarded statement. The number of
the attempt is the fencing token.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, delete, exists, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from app.base.database import UNSYNCED, insert_or, now_plus
from app.inference.repository import ON_A_WORKER, UNDECLINED, lock
from app.models import Engine, EngineState, Model, ServingWorker
from app.operations import leases

MAX_WAITING = 100  # of which a worker reads at a time
# A surplus engine is used when an API says so, which it does every 5 seconds.
DRAINED_SECONDS = 12.0
MAX_DECLINED = 1_000
FORGOTTEN_SECONDS = 86_400.0  # after which the row of a worker that was killed goes

Sibling = aliased(Engine)


class WaitingEngine(NamedTuple):
    engine: Engine
    model: Model
    is_held: bool  # the worker has another engine of the model


def note_worker(session: Session, owner: str) -> None:
    """Say that a worker looks for engines to load."""
    insert = insert_or(session, ServingWorker).values(id=owner, seen_at=now_plus())
    seen = {"seen_at": insert.excluded.seen_at}
    session.execute(insert.on_conflict_do_update(index_elements=["id"], set_=seen))
    is_forgotten = ServingWorker.seen_at < now_plus(-FORGOTTEN_SECONDS)
    session.execute(delete(ServingWorker).where(is_forgotten), execution_options=UNSYNCED)


def forget_worker(session: Session, owner: str) -> None:
    statement = delete(ServingWorker).where(ServingWorker.id == owner)
    session.execute(statement, execution_options=UNSYNCED)


def list_waiting(session: Session, owner: str, idle_seconds: float) -> list[WaitingEngine]:
    """Return the engines that a worker may load, those that have waited longest first. One that
    workers have declined is to be loaded only as long as somebody asks for it.
    """
    is_held = exists().where(
        Sibling.model_id == Engine.model_id,
        Sibling.owner == owner,
        Sibling.state.in_(ON_A_WORKER),
        Sibling.lease_expires_at >= now_plus(),
    )
    is_asked = or_(
        Engine.declined_by.is_(None),
        Engine.keep_loaded,
        Engine.used_at >= now_plus(-idle_seconds),
    )
    statement = (
        select(Engine, Model, is_held)
        .join(Model, Model.id == Engine.model_id)
        .where(_is_free(), is_asked, Engine.replica < Model.replicas)
        .order_by(Engine.used_at, Engine.replica)
        .limit(MAX_WAITING)
    )
    return [WaitingEngine(*row) for row in session.execute(statement)]


def claim(session: Session, engine: Engine, owner: str, lease_seconds: float) -> Engine | None:
    """Take an engine that waits, unless another worker was faster."""
    values = {"state": EngineState.LOADING, "owner": owner, **UNDECLINED}
    lease = {"lease_expires_at": now_plus(lease_seconds), "attempt": Engine.attempt + 1}
    taken = update(Engine).where(*leases.is_attempt(engine), _is_free()).values(**values, **lease)
    options = UNSYNCED | {"populate_existing": True}
    return session.scalars(taken.returning(Engine), execution_options=options).one_or_none()


def decline(
    session: Session, engine: Engine, owner: str, code: str, message: str, live_seconds: float
) -> None:
    """Leave an engine, which waits or is held, to the other workers. It has failed once each of
    them has declined it, unless the model has another engine.

    `live_seconds`: a worker that was not seen for so long is dead.
    """
    is_ours = or_(_is_free(), and_(Engine.owner == owner, Engine.state.in_(ON_A_WORKER)))
    locked = select(Engine).where(*leases.is_attempt(engine), is_ours).with_for_update()
    row = session.scalars(locked, execution_options={"populate_existing": True}).one_or_none()
    if row is None:
        return
    declined_by = {*(row.declined_by or ()), owner}
    is_live = ServingWorker.seen_at >= now_plus(-live_seconds)
    others = set(session.scalars(select(ServingWorker.id).where(is_live))) - declined_by
    has_failed = not others and not _has_live_sibling(session, row)
    row.state = EngineState.FAILED if has_failed else EngineState.WAITING
    row.declined_by = sorted(declined_by)[:MAX_DECLINED]
    row.error_code, row.error_message = code, message


def renew(session: Session, engine: Engine, lease_seconds: float, **figures: object) -> bool:
    """Extend the lease and record the engine's limits and load. Return False when it is lost, or
    the model has been deleted.
    """
    model = select(Model.id).where(Model.id == engine.model_id, Model.deleted_at.is_(None))
    is_mine = (*_is_held(engine), model.exists())
    values = figures | {"lease_expires_at": now_plus(lease_seconds)}
    return leases.execute(session, Engine, update(Engine).where(*is_mine).values(**values))


def write(session: Session, engine: Engine, **values: object) -> bool:
    """Set columns, unless the lease is lost."""
    return leases.execute(session, Engine, update(Engine).where(*_is_held(engine)).values(**values))


def fail(session: Session, engine: Engine, code: str, message: str) -> None:
    """Record why an engine was not loaded, or has ended. The model's engines that wait beside it
    would fail likewise; those that answer go on.
    """
    lock(session, engine.model_id)
    error = {"state": EngineState.FAILED, "error_code": code, "error_message": message}
    if not write(session, engine, **error) or _has_live_sibling(session, engine):
        return
    waiting = (Engine.model_id == engine.model_id, Engine.state == EngineState.WAITING)
    session.execute(update(Engine).where(*waiting).values(**error), execution_options=UNSYNCED)


def unload(session: Session, engine: Engine) -> None:
    """Remove the row of an engine that has ended, unless others have it or ask for it by now, or it
    is to stay loaded: then others take it once its lease is over.
    """
    is_last = (*leases.is_attempt(engine), Engine.state.in_(ON_A_WORKER), ~Engine.keep_loaded)
    session.execute(delete(Engine).where(*is_last), execution_options=UNSYNCED)


def release(session: Session, engine: Engine) -> bool:
    """Have another worker load an engine that is to stay loaded. Return False for other engines."""
    statement = update(Engine).where(*_is_held(engine), Engine.keep_loaded)
    return leases.execute(session, Engine, statement.values(state=EngineState.WAITING))


def unload_idle(session: Session, engine: Engine, idle_seconds: float) -> bool:
    """Remove the row unless the engine was used meanwhile. A surplus one goes as soon as it has
    answered everything.
    """
    is_idle = and_(~Engine.keep_loaded, Engine.used_at < now_plus(-idle_seconds))
    replicas = select(Model.replicas).where(Model.id == engine.model_id).scalar_subquery()
    is_drained = and_(
        Engine.replica >= replicas,
        Engine.used_at < now_plus(-DRAINED_SECONDS),
        func.coalesce(Engine.num_requests, 0) == 0,
    )
    is_over = or_(is_idle, is_drained)
    return leases.execute(session, Engine, delete(Engine).where(*_is_held(engine), is_over))


def is_patient(session: Session, engine: Engine) -> bool:
    """Return whether an engine takes no place of a model that was just in use: only batches have
    asked for it so far, or it is not the first of its model.
    """
    return engine.replica > 0 or bool(
        session.scalar(select(Engine.is_patient).where(*leases.is_attempt(engine)))
    )


def idle_engines(session: Session, owner: str, idle_seconds: float) -> Sequence[str]:
    """Return the models that a worker has loaded and that have no request, the least recently used
    first.
    """
    is_idle = (
        Engine.owner == owner,
        Engine.state == EngineState.READY,
        ~Engine.keep_loaded,
        Engine.used_at < now_plus(-idle_seconds),
    )
    return session.scalars(select(Engine.model_id).where(*is_idle).order_by(Engine.used_at)).all()


def _is_free() -> ColumnElement[bool]:
    """Return the condition under which no worker has the engine; one that is to stay loaded need
    not be asked for after its worker has gone.
    """
    is_gone = and_(Engine.state.in_(ON_A_WORKER), Engine.lease_expires_at < now_plus())
    return or_(Engine.state == EngineState.WAITING, and_(Engine.keep_loaded, is_gone))


def _has_live_sibling(session: Session, engine: Engine) -> bool:
    is_live = (
        Engine.model_id == engine.model_id,
        Engine.replica != engine.replica,
        Engine.state.in_(ON_A_WORKER),
        Engine.lease_expires_at >= now_plus(),
    )
    return bool(session.scalar(select(exists().where(*is_live))))


def _is_held(engine: Engine) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions under which the row is still that of this attempt."""
    return (
        *leases.is_attempt(engine),
        Engine.state.in_(ON_A_WORKER),
        Engine.lease_expires_at >= now_plus(),
    )
