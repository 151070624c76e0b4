"""Engines from the API's side; `claims` is the worker's side."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, or_, select, update
from sqlalchemy.orm import Session

from app.base.database import UNSYNCED, insert_or, now_plus
from app.models import Engine, EngineState, Model, Project

USE_IS_NOTED_EVERY_SECONDS = 5.0
MAX_LISTED = 1000
ON_A_WORKER = (EngineState.LOADING, EngineState.READY)


class ReadyEngine(NamedTuple):
    engine: Engine
    use_is_due: bool  # last use is due to be recorded


def find(session: Session, model_id: str) -> Engine | None:
    return session.get(Engine, model_id, populate_existing=True)


def find_ready(session: Session, model_id: str) -> ReadyEngine | None:
    """Return the engine of a model if it is ready."""
    is_ready = (
        Engine.model_id == model_id,
        Engine.state == EngineState.READY,
        Engine.lease_expires_at >= now_plus(),
    )
    use_is_due = Engine.used_at < now_plus(-USE_IS_NOTED_EVERY_SECONDS)
    row = session.execute(select(Engine, use_is_due).where(*is_ready)).one_or_none()
    return row and ReadyEngine(*row)


def is_private(session: Session, model: Model) -> bool:
    """Return True if only one project can have used the model: it is its own, or the only one."""
    if model.project_id is not None:
        return True
    return len(session.scalars(select(Project.id).limit(2)).all()) == 1


def request_engine(session: Session, model_id: str, *, is_patient: bool = False) -> bool:
    """Have the model loaded unless a live worker has it; return True if workers are to be notified.

    An engine that has failed, or whose worker has been silent for a lease, waits for a worker
    again. `is_patient`: a batch asks for it.
    """
    row = {
        "model_id": model_id,
        "state": EngineState.WAITING,
        "used_at": now_plus(),
        "attempt": 0,
        "is_patient": is_patient,
    }
    insert = insert_or(session, Engine).values(**row).on_conflict_do_nothing()
    if session.scalar(insert.returning(Engine.model_id)) is not None:
        return True
    is_gone = and_(Engine.state.in_(ON_A_WORKER), Engine.lease_expires_at < now_plus())
    is_over = or_(Engine.state == EngineState.FAILED, is_gone)
    again = {
        "state": EngineState.WAITING,
        "error_code": None,
        "error_message": None,
        "is_patient": is_patient,
    }
    if not is_patient:  # one that waits, or is being loaded, is patient no longer
        hurried = update(Engine).where(Engine.model_id == model_id, Engine.is_patient)
        session.execute(hurried.values(is_patient=False), execution_options=UNSYNCED)
    statement = update(Engine).where(Engine.model_id == model_id, is_over)
    statement = statement.values(used_at=now_plus(), **again).returning(Engine.model_id)
    return session.scalar(statement, execution_options=UNSYNCED) is not None


def note_use(session: Session, model_id: str) -> None:
    statement = update(Engine).where(Engine.model_id == model_id).values(used_at=now_plus())
    session.execute(statement, execution_options=UNSYNCED)


def give_up(session: Session, engine: Engine) -> None:
    """Let another worker load an engine that does not respond any more."""
    is_same = (Engine.model_id == engine.model_id, Engine.attempt == engine.attempt)
    statement = update(Engine).where(*is_same, Engine.state == EngineState.READY)
    session.execute(statement.values(lease_expires_at=now_plus(-1)), execution_options=UNSYNCED)


def list_loaded(session: Session, project_id: str | None) -> Sequence[Engine]:
    """Return the engines of base models and of the project's own that are loaded or about to be,
    those used last first; with a project of None those of every project.
    """
    statement = select(Engine).where(_is_requested())
    if project_id is not None:
        own = or_(Model.project_id.is_(None), Model.project_id == project_id)
        statement = statement.join(Model, Model.id == Engine.model_id).where(own)
    return session.scalars(statement.order_by(Engine.used_at.desc()).limit(MAX_LISTED)).all()


def keep_loaded(session: Session, model_id: str, keep: bool) -> Engine | None:
    statement = update(Engine).where(Engine.model_id == model_id, _is_requested())
    return session.scalars(
        statement.values(keep_loaded=keep).returning(Engine), execution_options=UNSYNCED
    ).one_or_none()


def end(session: Session, model_id: str) -> bool:
    """Take the lease from the worker, which ends the engine with its next heartbeat; a waiting
    engine is not loaded until the next request. Return False if there is neither.
    """
    statement = update(Engine).where(Engine.model_id == model_id, _is_requested())
    # Not deleted: the number of its attempt fences out workers that come back.
    gone = {"state": EngineState.LOADING, "lease_expires_at": now_plus(-1)}
    ended = statement.values(**gone, keep_loaded=False)
    return session.scalar(ended.returning(Engine.model_id), execution_options=UNSYNCED) is not None


def _is_requested() -> ColumnElement[bool]:
    is_alive = and_(Engine.state.in_(ON_A_WORKER), Engine.lease_expires_at >= now_plus())
    return or_(Engine.state == EngineState.WAITING, is_alive)
