"""Engines of a batch's models. A batch is no reason to keep a model loaded that others wait to
replace: the engine's use is noted only so often that it does not end for want of use.
"""

import asyncio
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import structlog

from app.base.database import DATABASE_UNAVAILABLE_ERRORS
from app.base.errors import ApiError, InvalidRequest, NotFound, Unavailable
from app.inference import service
from app.inference.service import EngineFailed, EngineTarget
from app.models.alias import is_upstream
from app.notifier.broker import Notifier
from worker.context import WorkerContext

POLL_SECONDS = 0.2
RETRY_SECONDS = 15.0  # after a failure; by then an unused engine makes room for this one
PATIENCE_SECONDS = 3600.0  # for a model that is not loaded
NO_ROOM_SECONDS = 12 * 3600.0  # for one that models in use leave no room
OWN_ENGINE_SECONDS = 5.0  # until a deleted model of an engine of the operator's is noticed
MAX_AT_ONCE = 64  # requests of a batch at one engine

log = structlog.get_logger()


@dataclass(slots=True)
class _Found:
    target: EngineTarget
    valid_until: float
    noted_at: float


class BatchEngines:
    """Engines by model, as last found."""

    def __init__(self, context: WorkerContext, project_id: str) -> None:
        self._database = context.database
        self._lookup = (context.settings, context.database, Notifier(context.settings))
        self._project_id = project_id
        self._noted_every_seconds = context.settings.engine_idle.total_seconds() / 2
        self._found: dict[str, _Found] = {}
        self._failures: dict[str, ApiError] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def num_at_once(self) -> int:
        """Return how many requests may be out: half of what an engine answers at once."""
        most = max((found.target.max_answers for found in self._found.values()), default=1)
        return max(1, min(most // 2, MAX_AT_ONCE))

    async def find(self, model_id: str) -> EngineTarget:
        """Return the engine of a model once it is ready. Raises why there is none; the same for
        every later request.
        """
        async with self._locks[model_id]:
            found = self._found.get(model_id)
            if found is not None and time.monotonic() < found.valid_until:
                return found.target
            if model_id in self._failures:
                raise self._failures[model_id]
            try:
                _refuse_upstream(model_id)
                target = await self._wait_for(model_id)
            except ApiError as error:
                self._failures[model_id] = error
                raise
            seconds = self._noted_every_seconds if target.engine else OWN_ENGINE_SECONDS
            now = time.monotonic()
            self._found[model_id] = _Found(target, now + seconds, now)
            return target

    def note_uses(self) -> None:
        """Keep the engines from ending for want of use under a long answer."""
        for found in self._found.values():
            if time.monotonic() > found.noted_at + self._noted_every_seconds:
                found.noted_at = time.monotonic()
                with suppress(*DATABASE_UNAVAILABLE_ERRORS):  # half of the time is left
                    service.note_use(self._database, found.target)

    def forget(self, model_id: str, target: EngineTarget, *, is_gone: bool) -> None:
        """Look for the engine again before the next request; of one that is gone, in the database,
        too.
        """
        self._found.pop(model_id, None)
        if is_gone:
            try:
                service.give_up(self._database, target)
            except DATABASE_UNAVAILABLE_ERRORS as error:
                log.warning("an engine was not given up", error=str(error))

    async def _wait_for(self, model_id: str) -> EngineTarget:
        began_at = time.monotonic()
        names = (self._project_id, model_id)
        find = partial(service.find_or_request, *self._lookup, *names, is_patient=True)
        poll = partial(service.poll, self._database, *names, is_patient=True)
        look = find
        while True:
            seconds = POLL_SECONDS
            try:
                if targets := look():
                    return service.choose(targets)
                look = poll
                failure: ApiError = Unavailable(
                    f"The model '{model_id}' is not loaded; does a cpu worker run?",
                    code="model_loading",
                )
            except (InvalidRequest, NotFound):
                raise
            except EngineFailed as error:
                log.warning("no engine for a batch", model=model_id, error=error.message)
                failure, look, seconds = error, find, RETRY_SECONDS
            except DATABASE_UNAVAILABLE_ERRORS as error:
                log.warning("the database did not name an engine", error=str(error))
                failure = Unavailable("The database is unavailable.")
            has_room = failure.code != "engine_out_of_memory"
            patience = PATIENCE_SECONDS if has_room else NO_ROOM_SECONDS
            if time.monotonic() > began_at + patience:
                raise failure
            await asyncio.sleep(seconds)


def _refuse_upstream(model_id: str) -> None:
    if is_upstream(model_id):
        raise InvalidRequest(
            f"model: a batch asks models here, and '{model_id}' is elsewhere.",
            param="model",
            code="upstream_not_batched",
        )
