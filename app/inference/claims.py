"""Leases of engines, from the worker's side: each change a single guarded statement. The number of
the attempt is the fencing token.
"""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.orm import Session

from app.base.database import UNSYNCED, now_plus
from app.inference.repository import ON_A_WORKER
from app.models import Engine, EngineState, Model
from app.operations import leases


def claim(session: Session, owner: str, lease_seconds: float) -> Engine | None:
    """Take the engine that has waited longest."""
    is_waiting = (Engine.state == EngineState.WAITING,)
    values = {"state": EngineState.LOADING, "owner": owner}
    order = (Engine.used_at,)
    return leases.claim_first(session, Engine, is_waiting, order, lease_seconds, **values)


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


def unload(session: Session, engine: Engine) -> None:
    """Remove the row of an engine that has ended, unless others have it or ask for it by now."""
    is_last = (*leases.is_attempt(engine), Engine.state.in_(ON_A_WORKER))
    session.execute(delete(Engine).where(*is_last), execution_options=UNSYNCED)


def release(session: Session, engine: Engine) -> bool:
    """Have another worker load an engine that is to stay loaded. Return False for other engines."""
    statement = update(Engine).where(*_is_held(engine), Engine.keep_loaded)
    return leases.execute(session, Engine, statement.values(state=EngineState.WAITING))


def unload_idle(session: Session, engine: Engine, idle_seconds: float) -> bool:
    """Remove the row unless the engine was used meanwhile."""
    is_idle = (~Engine.keep_loaded, Engine.used_at < now_plus(-idle_seconds))
    return leases.execute(session, Engine, delete(Engine).where(*_is_held(engine), *is_idle))


def is_patient(session: Session, engine: Engine) -> bool:
    """Return whether only batches have asked for an engine so far."""
    patient = select(Engine.is_patient).where(Engine.model_id == engine.model_id)
    return bool(session.scalar(patient))


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
        *leases.is_attempt(engine),
        Engine.state.in_(ON_A_WORKER),
        Engine.lease_expires_at >= now_plus(),
    )
