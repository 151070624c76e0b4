"""Ask a model through its engine, as the API does, a few questions at once."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import httpx
import structlog

from app.base.database import DATABASE_UNAVAILABLE_ERRORS
from app.base.errors import ApiError, InvalidRequest, NotFound
from app.inference import service
from app.inference.adapters import send_with_adapter
from app.inference.refusals import CONNECTION_ERRORS
from app.inference.service import EngineTarget
from app.inference.usage import TokenUsage, usage_of
from app.models import QuestionSource
from app.notifier.broker import Notifier
from app.usage.questions import QuestionCount, QuestionCounts, QuestionKey
from worker.context import WorkerContext
from worker.evaluation.charge import Charge
from worker.evaluation.rows import COMPLETION_PATH
from worker.machine.busy_engine import EngineBusy, busy_of

MAX_CONCURRENT = 2  # An engine gives four answers at once; other callers need the rest.
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 300.0
LOAD_WAIT_SECONDS = 660.0  # Longer than a worker tries to load a model.
ENGINE_POLL_SECONDS = 0.2
# Pause after a failure. By then an engine that is unused makes room for this one.
RETRY_SECONDS = 15.0
MAX_TRIES = 3
TOO_LARGE_CODES = ("context_length_exceeded", "refused_by_engine")

T = TypeVar("T")
log = structlog.get_logger()


class NotAnswered(Exception):
    """Asking again is useless; with a code and a sentence for the user."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Question:
    path: str
    body: bytes


@dataclass(frozen=True, slots=True)
class EngineRefused:
    """A question that this engine, or the API before it, does not take."""

    code: str
    message: str


class Asker:
    """The caller of an evaluation's models. `heartbeat` is called all the time and may raise to
    give up. `charge`: that of earlier attempts, to which the time of engines of workers is added;
    others are not charged.
    """

    def __init__(
        self,
        context: WorkerContext,
        project_id: str,
        key_id: str | None,
        heartbeat: Callable[[], None],
        charge: Charge,
    ) -> None:
        self._settings = context.settings
        self._database = context.database
        self._notifier = Notifier(context.settings)
        self._project_id = project_id
        self._key_id = key_id
        self._counts = QuestionCounts(context.settings)
        self._heartbeat = heartbeat
        self.charge = charge

    def ask(
        self, model_id: str, questions: Sequence[Question], *, is_judge: bool = False
    ) -> list[str | EngineRefused]:
        """Return the answers of a model. Raises `NotAnswered` where there is no engine for it,
        or where it fails time and again. A busy engine is asked again until the heartbeat gives
        up. The operator names models that judge at an address of its own, which is not charged.
        """
        judge = (
            self._judge_target() if is_judge and model_id in self._settings.judge_models else None
        )
        answers: dict[int, _Answer] = {}
        num_tries = 1
        while True:
            missing = {i: each for i, each in enumerate(questions) if i not in answers}
            try:
                target = judge or self._find_target(model_id)
                with nullcontext() if target.engine is None else self._charged():
                    replies = asyncio.run(self._ask_at_once(target, missing.values()))
            except (EngineAway, ApiError) as error:
                failure = _failure_of(error)
                log.warning("a model was not asked", model=model_id, error=failure.message)
                if num_tries == MAX_TRIES or isinstance(error, InvalidRequest | NotFound):
                    raise failure from error
                num_tries += 1
                self._pause(RETRY_SECONDS)
                continue
            replied = zip(missing, replies, strict=True)
            answers |= {i: each for i, each in replied if isinstance(each, _Answer)}
            busy = [each for each in replies if isinstance(each, EngineBusy)]
            if not busy:
                if judge is None and not target.is_upstream:
                    self._count(model_id, answers.values())
                return [answers[i].text for i in range(len(questions))]
            log.info("an engine of an evaluation is busy", model=model_id, error=busy[0].message)
            self._pause(max(each.wait_seconds for each in busy))

    def _count(self, model_id: str, answers: Iterable["_Answer"]) -> None:
        """Count the tokens; those that the database does not take are counted with the next."""
        usages = [answer.usage for answer in answers if answer.usage is not None]
        key = QuestionKey(self._project_id, self._key_id or "", model_id, QuestionSource.EVALUATION)
        read = sum(usage.prompt_tokens for usage in usages)
        written = sum(usage.completion_tokens for usage in usages)
        self._counts.add(key, QuestionCount(len(usages), read, written))
        try:
            self._counts.write(self._database)
        except DATABASE_UNAVAILABLE_ERRORS as error:
            log.warning("tokens of an evaluation are not counted yet", error=str(error))

    def _judge_target(self) -> EngineTarget:
        settings = self._settings
        token = settings.judge_key.get_secret_value() if settings.judge_key else ""
        address = settings.judge_url.rstrip("/")
        return EngineTarget(address, token, None, MAX_CONCURRENT, self._project_id, False)

    def _find_target(self, model_id: str) -> EngineTarget:
        """Wait for the engine. That of this worker loads models in a thread of its own."""
        lookup = (self._settings, self._database, self._notifier)
        names = (self._project_id, model_id)
        # What was trained is judged; how far an adapter answers from that is measured elsewhere.
        ask = partial(service.find_or_request, *lookup, *names, as_merged=True)
        targets = self._poll(ask)
        deadline = time.monotonic() + LOAD_WAIT_SECONDS
        while not targets:
            if time.monotonic() > deadline:
                message = f"'{model_id}' is not loaded after {LOAD_WAIT_SECONDS / 60:g} minutes."
                raise NotAnswered("model_loading", f"{message} Does a cpu worker run?")
            self._heartbeat()
            time.sleep(ENGINE_POLL_SECONDS)
            poll = partial(service.poll, self._database, *names, as_merged=True)
            targets = self._poll(poll)
        return service.choose(targets)

    @contextmanager
    def _charged(self) -> Iterator[None]:
        """Charge the time of an engine, also where it fails: it has worked."""
        self._poll(self._reprice)
        began_at = time.monotonic()
        try:
            yield
        finally:
            self.charge.add(time.monotonic() - began_at)

    def _reprice(self) -> None:
        with self._database.read() as session:
            self.charge.reprice(session, self._settings)

    def _poll(self, read: Callable[[], T]) -> T:
        """Poll again while the database is unavailable: the heartbeat raises when the lease is
        over.
        """
        while True:
            try:
                return read()
            except DATABASE_UNAVAILABLE_ERRORS as error:
                log.warning("the database named no engine or price", error=str(error))
                self._heartbeat()
                time.sleep(ENGINE_POLL_SECONDS)

    async def _ask_at_once(
        self, target: EngineTarget, questions: Iterable[Question]
    ) -> list["_Answer | EngineBusy"]:
        timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        async with httpx.AsyncClient(timeout=timeout, trust_env=False) as client:
            tasks = [asyncio.create_task(_answer(client, target, each)) for each in questions]
            try:
                pending = set(tasks)
                while pending:
                    _, pending = await asyncio.wait(pending, timeout=ENGINE_POLL_SECONDS)
                    self._heartbeat()
                return [task.result() for task in tasks]
            except (EngineAway, *CONNECTION_ERRORS) as error:
                service.give_up(self._database, target)
                raise EngineAway(repr(error)) from error
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._heartbeat()
            time.sleep(ENGINE_POLL_SECONDS)


class EngineAway(Exception):
    """The engine does not answer."""


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str | EngineRefused
    usage: TokenUsage | None = None


async def _answer(
    client: httpx.AsyncClient, target: EngineTarget, question: Question
) -> _Answer | EngineBusy:
    send = partial(
        client.post,
        f"{target.address}{question.path}",
        content=target.body(question.body),
        headers=target.headers,
    )
    answer = await send_with_adapter(client, target, send)
    if busy := busy_of(target, answer):
        return busy
    if target.is_gone(answer.status_code):
        raise EngineAway("another engine has its address")
    if answer.status_code != httpx.codes.OK:
        refusal = target.refusal_of(answer, answer.content)
        if refusal.code in TOO_LARGE_CODES:
            return _Answer(EngineRefused(refusal.code, refusal.message))
        raise refusal
    document = answer.json()
    choice = document["choices"][0]
    if question.path == COMPLETION_PATH:
        text = str(choice["text"])
    else:
        text = choice["message"].get("content") or ""
    return _Answer(text, usage_of(document))


def _failure_of(error: ApiError | EngineAway) -> NotAnswered:
    match error:
        case EngineAway():
            return NotAnswered("engine_unavailable", "The engine of the model does not answer.")
        case NotFound():
            return NotAnswered("model_not_found", "A model has been deleted meanwhile.")
    return NotAnswered(error.code or "engine_failed", error.message)
