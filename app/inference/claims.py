"""Leases of engines, from the worker's side: each change a single guarded statement. The number of
the attempt is the fencing token.
"""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, UpdateBase, delete, select, update
from sqlalchemy.orm import Session

from app.base.database import UNSYNCED, now_plus
from app.inference.repository import ON_A_WORKER
from app.models import Engine, EngineState, Model


def claim(session: Session, owner: str, lease_seconds: float) -> Engine | None:
    """Take the engine that has waited longest."""
    oldest = (
        select(Engine.model_id)
        .where(Engine.state == EngineState.WAITING)
        .order_by(Engine.used_at)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    statement = update(Engine).where(Engine.model_id == oldest, Engine.state == EngineState.WAITING)
    claimed = {"state": EngineState.LOADING, "owner": owner, "attempt": Engine.attempt + 1}
    return session.scalars(
        statement.values(lease_expires_at=now_plus(lease_seconds), **claimed).returning(Engine),
        execution_options=UNSYNCED,
    ).one_or_none()


def renew(session: Session, engine: Engine, lease_seconds: float, **figures: object) -> bool:
    """Extend the lease and record the engine's limits and load. Return False when it is lost, or
    the model has been deleted.
    """
    model = select(Model.id).where(Model.id == engine.model_id, Model.deleted_at.is_(None))
    is_mine = (*_is_held(engine), model.exists())
    statement = update(Engine).where(*is_mine).values(**figures)
    return _changes(session, statement.values(lease_expires_at=now_plus(lease_seconds)))


def write(session: Session, engine: Engine, **values: object) -> bool:
    """Set columns, unless the lease is lost."""
    return _changes(session, update(Engine).where(*_is_held(engine)).values(**values))


def unload(session: Session, engine: Engine) -> None:
    """Remove the row of an engine that has ended, unless another worker holds it or a request waits
    for it by now.
    """
    is_last = (*_is_attempt(engine), Engine.state.in_(ON_A_WORKER))
    session.execute(delete(Engine).where(*is_last), execution_options=UNSYNCED)


def release(session: Session, engine: Engine) -> bool:
    """Have another worker load an engine that is to stay loaded. Return False for other engines."""
    statement = update(Engine).where(*_is_held(engine), Engine.keep_loaded)
    return _changes(session, statement.values(state=EngineState.WAITING))


def unload_idle(session: Session, engine: Engine, idle_seconds: float) -> bool:
    """Remove the row unless the engine was used meanwhile."""
    is_idle = (~Engine.keep_loaded, Engine.used_at < now_plus(-idle_seconds))
    return _changes(session, delete(Engine).where(*_is_held(engine), *is_idle))


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


def _is_held(engine: Engine) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions under which the row is still that of this attempt."""
    return (
        *_is_attempt(engine),
        Engine.state.in_(ON_A_WORKER),
        Engine.lease_expires_at >= now_plus(),
    )


def _is_attempt(engine: Engine) -> tuple[ColumnElement[bool], ...]:
    return Engine.model_id == engine.model_id, Engine.attempt == engine.attempt


def _changes(session: Session, statement: UpdateBase) -> bool:
    returned = session.execute(statement.returning(Engine.model_id), execution_options=UNSYNCED)
    return returned.first() is not None
