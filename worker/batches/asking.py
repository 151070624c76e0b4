"""One request of a batch at its engine, as the API sends it, but behind those of others."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import httpx
import structlog

from app.aliases import service as aliases
from app.base.database import DATABASE_UNAVAILABLE_ERRORS, Database
from app.base.errors import Unavailable
from app.inference.adapters import send_with_adapter
from app.inference.documents import join, parse
from app.inference.engine_traits import KnownTraits
from app.inference.known_aliases import KnownAliases, choose
from app.inference.questions import EngineRequest, estimate_tokens, split
from app.inference.refusals import CONNECTION_ERRORS, EngineError
from app.inference.schemas import ChatCompletionRequest
from app.inference.service import EngineTarget
from app.inference.translation import translate
from app.inference.usage import UsageTally, usage_of
from worker.batches.engines import RETRY_SECONDS, BatchEngines
from worker.machine.busy_engine import EngineBusy, busy_of
from worker.machine.engine_samples import read_num_waiting

HEALTH_SECONDS = 5.0
MAX_TRIES = 3  # of one request, when the engine fails or goes
BUSY_SECONDS = 1.0  # between two readings of an engine's queue

log = structlog.get_logger()


class BatchAsker:
    """Sends requests to engines. `seconds` and the tokens are those of all answers so far."""

    def __init__(
        self, client: httpx.AsyncClient, engines: BatchEngines, database: Database, project_id: str
    ) -> None:
        self._client = client
        self._engines = engines
        self._database = database
        self._project_id = project_id
        self._traits = KnownTraits()
        self._aliases = KnownAliases()
        self._calm = _Calm()
        self._num_open = 0
        self._open_since = 0.0
        self._seconds = 0.0
        self.input_tokens = 0
        self.output_tokens = 0

    @property
    def seconds(self) -> float:
        """Return the time in which an engine of a worker had a request; others are not charged."""
        running = time.monotonic() - self._open_since if self._num_open else 0.0
        return self._seconds + running

    async def ask(self, request: ChatCompletionRequest) -> dict[str, Any]:
        """Return the answer. Raises the refusal, or why there is none after some tries. A busy
        engine is asked again until the batch ends.
        """
        model_id = await self._model_of(request)
        request = request.model_copy(update={"model": model_id})
        num_tries = 1
        while True:
            try:
                return await self._ask(request, await self._engines.find(model_id))
            except EngineBusy as error:
                log.info("an engine of a batch is busy", model=model_id, error=error.message)
                await asyncio.sleep(error.wait_seconds)
                continue
            except (_EngineAway, EngineError) as error:
                log.warning("a request of a batch failed", model=model_id, error=error.message)
                if num_tries == MAX_TRIES:
                    raise
            num_tries += 1
            await asyncio.sleep(RETRY_SECONDS)

    async def _model_of(self, request: ChatCompletionRequest) -> str:
        """Return the model that a name stands for. The heartbeat ends a long outage."""
        name = (self._project_id, request.model)
        while not self._aliases.is_known(*name):
            try:
                with self._database.look_up() as session:
                    self._aliases.keep(*name, aliases.find_targets(session, *name))
            except DATABASE_UNAVAILABLE_ERRORS as error:
                log.warning("the database did not name a model", error=str(error))
                await asyncio.sleep(BUSY_SECONDS)
        targets = self._aliases.find(*name)
        if targets is None:
            return request.model
        return choose(targets, request.model, request.sticky_key)

    async def _ask(self, request: ChatCompletionRequest, target: EngineTarget) -> dict[str, Any]:
        key = (target.address, target.token, request.model)
        try:
            await self._calm.wait_for(target)
            post = partial(self._post, target)
            translation = await translate(request, self._traits, key, post)
            assert translation.content is not None, "only completions are known beforehand"
            questions = split(translation.content)
            tally = UsageTally(estimate_tokens(questions), len(questions))
            documents = [await self._send(request, target, each, tally) for each in questions]
        except CONNECTION_ERRORS as error:
            is_gone = not await self._is_alive(target)
            self._engines.forget(request.model, target, is_gone=is_gone)
            raise _EngineAway(
                "The engine of this model does not respond.", code="engine_unavailable"
            ) from error
        usage = tally.document(is_private=target.is_private)
        self.input_tokens += usage["prompt_tokens"]
        self.output_tokens += usage["completion_tokens"]
        rewriter = translation.rewriter
        document = join(questions, documents, rewriter, tally, is_private=target.is_private)
        target.name_as_asked(document)
        return document

    async def _send(
        self,
        request: ChatCompletionRequest,
        target: EngineTarget,
        question: EngineRequest,
        tally: UsageTally,
    ) -> dict[str, Any]:
        tally.add_sent(question)
        send = partial(self._post, target, request.engine_path, question.fields)
        answer = await send_with_adapter(self._client, target, send)
        if answer.status_code != httpx.codes.OK:
            if target.is_gone(answer.status_code):
                self._engines.forget(request.model, target, is_gone=True)
            refusal = target.refusal_of(answer, answer.content, request.prompt_field)
            if isinstance(refusal, Unavailable):
                raise _EngineAway(refusal.message, code=refusal.code)
            raise refusal
        document = parse(answer.content)
        if usage := usage_of(document):
            tally.set_usage(question, usage)
        return document

    async def _post(
        self, target: EngineTarget, path: str, fields: dict[str, Any] | None
    ) -> httpx.Response:
        """Return the response. Raises `EngineBusy`, also for a question about the engine."""
        with nullcontext() if target.engine is None else self._timed():
            answer = await self._client.request(
                "GET" if fields is None else "POST",
                f"{target.address}{path}",
                content=None if fields is None else target.body(json.dumps(fields).encode()),
                headers=target.headers,
            )
        if busy := busy_of(target, answer):
            raise busy
        return answer

    @contextmanager
    def _timed(self) -> Iterator[None]:
        if not self._num_open:
            self._open_since = time.monotonic()
        self._num_open += 1
        try:
            yield
        finally:
            self._num_open -= 1
            if not self._num_open:
                self._seconds += time.monotonic() - self._open_since

    async def _is_alive(self, target: EngineTarget) -> bool:
        """Return True if the engine takes a connection and answers at all: others use it, too."""
        try:
            url = f"{target.address}/health"
            await self._client.get(url, headers=target.headers, timeout=HEALTH_SECONDS)
        except httpx.TransportError:
            return False
        return True


class _EngineAway(Unavailable):
    """The engine, or its connection, has gone; another try may find it again."""


class _Calm:
    """Waits until nobody else waits for an engine."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._free_until: dict[str, float] = {}

    async def wait_for(self, target: EngineTarget) -> None:
        if target.engine is None:  # the queue of a server of the operator's is not ours to read
            return
        async with self._lock:
            while time.monotonic() > self._free_until.get(target.address, 0.0):
                reading = (target.address, target.token)
                if not await asyncio.to_thread(read_num_waiting, *reading):
                    self._free_until[target.address] = time.monotonic() + BUSY_SECONDS
                    return
                await asyncio.sleep(BUSY_SECONDS)
