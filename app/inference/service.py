"""The engine that answers for a model. Free of the web framework: workers ask models, too."""

from contextlib import suppress
from typing import NamedTuple

from sqlalchemy.orm import Session

from app.base.database import Database
from app.base.errors import ApiError, InvalidRequest, NotFound
from app.base.settings import Settings
from app.catalogue import service as catalogue
from app.inference import repository
from app.jobs.base_model import own_checkpoint
from app.models import Engine, EngineState, Model
from app.notifier.broker import Notifier

NOT_SERVABLE = "lora"  # an adapter is no model by itself
# What asking again cannot change.
PERMANENT = ("engine_not_available", "model_not_servable")


class Target(NamedTuple):
    """Where to ask, and as whom."""

    address: str
    token: str
    engine: Engine | None  # None where it is the operator's own

    @property
    def headers(self) -> dict[str, str]:
        """Return what a question is sent with."""
        # What it sends is passed on as it is, so it must not be compressed for us.
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        return headers


class EngineFailed(ApiError):
    """The engine could not be started; its code and sentence tell why."""

    status = 503
    code = "engine_failed"


def find_or_ask(
    settings: Settings, database: Database, notifier: Notifier, project_id: str, model_id: str
) -> Target | None:
    """Return the engine of a model; None where one has to be loaded, which is asked for.

    Raises `NotFound`, and `InvalidRequest` for a model that cannot be asked.
    """
    with database.look_up() as session:
        model = _find_model(session, project_id, model_id)
        ready = repository.find_ready(session, model_id)
    if model.format == NOT_SERVABLE:
        raise InvalidRequest(
            f"model: '{model_id}' is an adapter; ask '{model_id.removesuffix(':lora')}', "
            "which has it merged in.",
            param="model",
            code="model_not_servable",
        )
    if settings.engine_url:
        token = settings.engine_key.get_secret_value() if settings.engine_key else ""
        return Target(settings.engine_url.rstrip("/"), token, None)
    if ready is not None:
        target = _target_of(ready.engine)
        if ready.use_is_due:
            note_use(database, target)
        return target
    with database.transaction() as session:
        is_new = repository.ask_for(session, model_id)
    if is_new:
        notifier.notify(Engine, model_id)
    return None


def _find_model(session: Session, project_id: str, model_id: str) -> Model:
    try:
        return catalogue.get(session, project_id, model_id)
    except NotFound:
        if not _is_checkpoint(session, project_id, model_id):
            raise
    raise InvalidRequest(
        f"model: '{model_id}' is a checkpoint, and no model is made of it yet. "
        f"`falqon models export {model_id} --format fp8`, or a POST of "
        f'{{"format": "fp8"}} to /v1/models/{model_id}/exports, makes one of this name.',
        param="model",
        code="checkpoint_not_exported",
    )


def _is_checkpoint(session: Session, project_id: str, name: str) -> bool:
    with suppress(NotFound):
        own_checkpoint(session, project_id, name)
        return True
    return False


def look(database: Database, model_id: str) -> Target | None:
    """Return the engine that was asked for once it is ready. Raises why it cannot be."""
    with database.read() as session:
        engine = repository.find(session, model_id)
        ready = repository.find_ready(session, model_id)
    if ready is not None:
        return _target_of(ready.engine)
    if engine is not None and engine.state == EngineState.FAILED:
        raise _failure_of(engine)
    if engine is None:  # unloaded again before we saw it
        with database.transaction() as session:
            repository.ask_for(session, model_id)
    return None


def note_use(database: Database, target: Target) -> None:
    """Keep the engine loaded, and others from taking its place."""
    if target.engine is not None:
        with database.transaction() as session:
            repository.note_use(session, target.engine.model_id)


def give_up(database: Database, target: Target) -> None:
    """Have the model loaded anew by whoever asks next."""
    if target.engine is not None:
        with database.transaction() as session:
            repository.give_up(session, target.engine)


def _target_of(engine: Engine) -> Target:
    assert engine.address is not None
    return Target(engine.address, engine.token or "", engine)


def _failure_of(engine: Engine) -> ApiError:
    code = engine.error_code or "engine_failed"
    message = engine.error_message or "The engine could not be started; the worker's log says why."
    if code in PERMANENT:
        return InvalidRequest(message, param="model", code=code)
    return EngineFailed(message, code=code, headers={"retry-after": "10"})
