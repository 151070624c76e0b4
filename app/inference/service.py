"""Lookup of the engines of a model, and the request to start one."""

import json
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
from sqlalchemy.orm import Session

from app.aliases import service as aliases
from app.base.database import Database
from app.base.errors import ApiError, InvalidRequest, NotFound, Unavailable
from app.base.settings import Settings
from app.catalogue import service as catalogue
from app.catalogue.naming import hub_id
from app.catalogue.schemas import NOT_SERVABLE, engine_note_of
from app.inference import repository, upstream
from app.inference.refusals import ENGINE_UNAVAILABLE, refusal_of
from app.jobs.base_model import trained_format
from app.models import Engine, EngineState, Model
from app.models.alias import is_upstream
from app.notifier.broker import Notifier

UPSTREAM_ANSWERS = 2_000  # simultaneous ones; the upstream has limits of its own
DEFAULT_ANSWERS = 4  # simultaneous ones, for an engine of an older worker
# What a worker's engine answers to the token, or the model, of another one.
GONE_STATUSES = (401, 403, 404)
# Errors that a retry cannot resolve.
PERMANENT_CODES = (
    "engine_not_available",
    "model_not_servable",
    "chat_template_refused",
    "adapter_not_loadable",
    "adapter_rank_too_high",
)


@dataclass(frozen=True, slots=True)
class EngineTarget:
    """Engine to send a request to, and the identity to send it with."""

    address: str
    token: str
    engine: Engine | None  # None for the operator's own
    max_answers: int  # generated at the same time
    project_id: str
    is_private: bool  # no other project uses it
    is_upstream: bool = False  # it gets questions as their clients wrote them
    num_replicas: int = 1  # engines that the model is to have
    asked_name: str | None = None  # for a model whose adapter answers by another name
    # Name of an adapter that the operator's server may have to load, and its id in the hub.
    adapter: tuple[str, str] | None = None

    def is_gone(self, status: int) -> bool:
        """Return whether the answer is that of another engine, which has the address by now, or of
        a program that has unloaded the model.
        """
        return self.engine is not None and status in GONE_STATUSES

    def refusal_of(
        self, answer: httpx.Response, raw: bytes, prompt_field: str = "messages"
    ) -> ApiError:
        """Return the error to raise for an answer other than the wanted one."""
        if self.is_upstream:
            return upstream.refusal_of(answer.status_code, raw, answer.headers, token=self.token)
        if self.is_gone(answer.status_code):
            return Unavailable(
                "The engine of this model has ended; try again.", code=ENGINE_UNAVAILABLE
            )
        return refusal_of(answer.status_code, raw, prompt_field)

    @property
    def key(self) -> tuple[str, str]:
        """Return what tells it from other engines: each load has a token of its own."""
        return self.address, self.token

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers of a request."""
        # The response is passed on unchanged, so it must not be compressed for us.
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        return headers

    def body(self, question: bytes) -> bytes:
        """Return the body of a request: a project reuses the cache of its own prompts. For that
        vLLM has a salt; llama.cpp's slots are shared by all clients.
        """
        if self.is_upstream:
            return upstream.spell(question)
        if self.engine is None:  # a server of the operator's may know neither field
            return question
        caching = {"cache_prompt": self.is_private, "cache_salt": self.project_id}
        if self.asked_name is not None:
            return json.dumps(
                caching | json.loads(question) | {"model": self.engine.model_id}
            ).encode()
        return json.dumps(caching).encode()[:-1] + b"," + question[1:]

    def name_as_asked(self, document: dict[str, Any]) -> None:
        """Put the name that was asked for into an answer, or an event of one."""
        if self.asked_name is not None and "model" in document:
            document["model"] = self.asked_name


class EngineFailed(ApiError):
    """The engine could not be started; its code and message say why."""

    status = 503
    code = "engine_failed"


def find_or_request(
    settings: Settings,
    database: Database,
    notifier: Notifier,
    project_id: str,
    model_id: str,
    *,
    is_patient: bool = False,
    as_merged: bool = False,
) -> Sequence[EngineTarget]:
    """Return the engines of a model that are ready; none if workers have to load it, which is then
    requested. `as_merged`: also of one whose adapter answers otherwise.

    Raises `NotFound`, and `InvalidRequest` for a model that does not support inference.
    """
    if is_upstream(model_id):
        return [_find_upstream(settings, database, project_id, model_id)]
    with database.look_up() as session:
        model = _find_model(session, project_id, model_id)
        served = model if as_merged else _served(session, model)
        ready = repository.find_ready(session, served)
        is_private = repository.is_private(session, model)
    address = settings.engine_url_of(model_id)
    if model.format == NOT_SERVABLE and not address:
        raise InvalidRequest(
            f"model: {engine_note_of(model)}", param="model", code="model_not_servable"
        )
    catalogue.note_use(database, model)
    if address:
        token = settings.engine_key.get_secret_value() if settings.engine_key else ""
        limits = (settings.engine_answers, project_id, is_private)
        adapter = (model_id, hub_id(model_id)) if model.format == NOT_SERVABLE else None
        return [EngineTarget(address, token, None, *limits, adapter=adapter)]
    if ready:
        asked = (served, project_id, model_id, is_private)
        targets = [_target_of(each.engine, *asked) for each in ready]
        if any(each.use_is_due for each in ready):
            note_use(database, targets[0])
        return targets
    with database.transaction() as session:
        is_new = repository.request_engine(session, served.id, is_patient=is_patient)
    if is_new:
        for _ in range(served.replicas):
            notifier.notify(Engine, served.id)
    return []


def choose(targets: Sequence[EngineTarget]) -> EngineTarget:
    """Return the engine that had fewest requests for its size when its worker looked."""

    def load(target: EngineTarget) -> tuple[float, float]:
        num_requests = (target.engine and target.engine.num_requests) or 0
        return num_requests / target.max_answers, random.random()

    return min(targets, key=load)


def _served(session: Session, model: Model) -> Model:
    """Return the model whose engines answer for this one."""
    served_id = catalogue.served_id(session, model)
    return model if served_id == model.id else session.get_one(Model, served_id)


def _find_model(session: Session, project_id: str, model_id: str) -> Model:
    try:
        return catalogue.get(session, project_id, model_id)
    except NotFound:
        format = _format_of_checkpoint(session, project_id, model_id)
        if format is None:
            raise
    raise InvalidRequest(
        f"model: '{model_id}' is a checkpoint, and has not been exported yet. "
        f"`falqon models export {model_id} --format {format}`, or a POST of "
        f'{{"format": "{format}"}} to /v1/models/{model_id}/exports, creates a model of this name.',
        param="model",
        code="checkpoint_not_exported",
    )


def _find_upstream(
    settings: Settings, database: Database, project_id: str, model_id: str
) -> EngineTarget:
    """Return the upstream, for a model that a name of the project stands for."""
    with database.look_up() as session:
        is_named = aliases.stands_for(session, project_id, model_id)
    if not is_named:
        raise NotFound(
            f"The model '{model_id}' does not exist.", param="model", code="model_not_found"
        )
    if not settings.upstream_url:
        raise EngineFailed(
            f"'{model_id}' is to be asked elsewhere, and FALQON_UPSTREAM_URL names no server.",
            code="upstream_not_configured",
        )
    token = settings.upstream_key.get_secret_value() if settings.upstream_key else ""
    address = settings.upstream_url.rstrip("/")
    return EngineTarget(
        address, token, None, UPSTREAM_ANSWERS, project_id, is_private=False, is_upstream=True
    )


def _format_of_checkpoint(session: Session, project_id: str, name: str) -> str | None:
    """Return the format in which it becomes a model; None for what is no checkpoint."""
    with suppress(NotFound):
        return trained_format(session, project_id, name)
    return None


def poll(
    database: Database,
    project_id: str,
    model_id: str,
    *,
    is_patient: bool = False,
    as_merged: bool = False,
) -> Sequence[EngineTarget]:
    """Return the requested engines that are ready. Raises the reason if none can be."""
    with database.read() as session:
        model = session.get(Model, model_id)
        served = model if model is None or as_merged else _served(session, model)
        served_id = served.id if served is not None else model_id
        engines = repository.find(session, served_id)
        ready = repository.find_ready(session, served) if served is not None else []
        is_private = model is not None and repository.is_private(session, model)
    if served is not None and ready:
        asked = (served, project_id, model_id, is_private)
        return [_target_of(each.engine, *asked) for each in ready]
    failed = [engine for engine in engines if engine.state == EngineState.FAILED]
    if failed and not any(engine.state in repository.ON_A_WORKER for engine in engines):
        raise _failure_of(failed[0])
    if not engines:  # unloaded again meanwhile
        with database.transaction() as session:
            repository.request_engine(session, served_id, is_patient=is_patient)
    return []


def not_loaded(database: Database, model_id: str, wait_seconds: float) -> Unavailable:
    """Return the error to raise for a model that is not ready in time, with what hinders workers
    that know it.
    """
    with database.read() as session:
        model = session.get(Model, model_id)
        engines = repository.find(session, _served(session, model).id) if model else []
    reason = next((each.error_message for each in engines if each.error_message), None)
    advice = reason or "If that does not help, check that a cpu worker runs."
    return Unavailable(
        f"The model '{model_id}' is not loaded after {wait_seconds:g} s; try again. {advice}",
        code="model_loading",
    )


def note_use(database: Database, target: EngineTarget) -> None:
    """Keep the engine loaded, and others from taking its place. Have its model's missing engines
    loaded, which workers notice when they poll.
    """
    if target.engine is not None:
        with database.transaction() as session:
            repository.note_use(session, target.engine)
            if target.num_replicas > 1:
                engine = target.engine
                repository.request_engine(session, engine.model_id, is_patient=engine.is_patient)


def give_up(database: Database, target: EngineTarget) -> None:
    """Have the model loaded again with the next request."""
    if target.engine is not None:
        with database.transaction() as session:
            repository.give_up(session, target.engine)


def _target_of(
    engine: Engine, served: Model, project_id: str, model_id: str, is_private: bool
) -> EngineTarget:
    assert engine.address is not None
    return EngineTarget(
        engine.address,
        engine.token or "",
        engine,
        engine.max_answers or DEFAULT_ANSWERS,
        project_id,
        is_private,
        num_replicas=served.replicas,
        asked_name=None if engine.model_id == model_id else model_id,
    )


def _failure_of(engine: Engine) -> ApiError:
    code = engine.error_code or "engine_failed"
    message = engine.error_message or "The engine could not be started; the worker's log says why."
    if code in PERMANENT_CODES:
        return InvalidRequest(message, param="model", code=code)
    return EngineFailed(message, code=code, headers={"retry-after": "10"})
