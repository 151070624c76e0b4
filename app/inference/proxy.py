"""Transport of requests to an engine, and of the responses back."""

import json
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import anyio
import httpx
import structlog
from anyio.to_thread import run_sync
from fastapi import Request, Response

from app.base.database import DATABASE_UNAVAILABLE_ERRORS
from app.base.errors import ApiError, Unavailable
from app.inference import upstream
from app.inference.adapters import send_with_adapter
from app.inference.documents import join, parse
from app.inference.forms import AnswerForm, dump
from app.inference.questions import EngineRequest
from app.inference.refusals import CONNECTION_ERRORS, ENGINE_UNAVAILABLE, NEVER_SENT_ERRORS
from app.inference.rewriting import Rewriter
from app.inference.service import EngineTarget
from app.inference.turns import EngineQueue, EngineTurn
from app.inference.usage import UsageTally, usage_of

CONNECT_SECONDS = 5.0
# Of an engine beside which another one can answer, so that the next answer comes within 5 seconds.
REPLICA_CONNECT_SECONDS = 2.0
REPLICA_HEALTH_SECONDS = 1.0
RESPONSE_SECONDS = 600.0  # the timeout of the official client
MAX_CONNECTIONS = 2_000
# A machine that has gone is noticed within 14 seconds by those who wait for its answers.
KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 3), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)  # not on every system
    ),
]
CHECKED_EVERY_SECONDS = 0.5

T = TypeVar("T")
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ProxyCallbacks:
    """Callbacks beside passing a response on; each waits for a database."""

    note_use: Callable[[], None]
    give_up: Callable[[], None]


class ClientGone(ApiError):
    """The client no longer reads this response."""

    status = 499
    code = "client_gone"


@dataclass(frozen=True, slots=True)
class OpenAnswer:
    """Answer that the engine has begun, and the turn that it takes."""

    answer: httpx.Response
    turn: EngineTurn

    async def close(self) -> None:
        """Have the engine stop, and release the turn."""
        try:
            with anyio.CancelScope(shield=True):
                await self.answer.aclose()
        except httpx.HTTPError as error:
            log.info("a response could not be closed", error=repr(error))
        finally:
            self.turn.release()


@dataclass(frozen=True, slots=True)
class Exchange:
    """Requests of a project to one engine."""

    client: httpx.AsyncClient
    target: EngineTarget
    queue: EngineQueue
    path: str
    calls: ProxyCallbacks
    tally: UsageTally
    prompt_field: str = "messages"  # the user's field, for the engine's refusals

    async def post(self, path: str, fields: dict[str, Any] | None) -> httpx.Response:
        """Send a request other than a completion, in the project's turn; None: a GET."""
        turn = await self.queue.take(self.target.project_id)
        try:
            answer = await self.client.request(
                "GET" if fields is None else "POST",
                f"{self.target.address}{path}",
                content=None if fields is None else self.target.body(json.dumps(fields).encode()),
                headers=self.target.headers,
                timeout=self._timeout,
            )
        finally:
            turn.release()
        is_answered = path == self.path and answer.status_code == httpx.codes.OK
        if is_answered and (usage := usage_of(parse(answer.content))):
            self.tally.add_beside(usage)
        return answer

    async def take_turn(self) -> EngineTurn:
        return await self.queue.take(self.target.project_id)

    async def open(self, question: EngineRequest, turn: EngineTurn) -> OpenAnswer:
        """Send the request. Raises the engine's refusal."""
        try:
            self.tally.add_sent(question)
            send = partial(self._send, question)
            answer = await send_with_adapter(self.client, self.target, send)
        except BaseException as error:
            turn.release()
            if isinstance(error, NEVER_SENT_ERRORS):
                self.tally.take_refused(question)
            raise
        opened = OpenAnswer(answer, turn)
        if answer.status_code == httpx.codes.OK:
            return opened
        try:
            raw = await answer.aread()
        finally:
            await opened.close()
        self.tally.take_refused(question)
        if self.target.is_gone(answer.status_code):
            log.warning("engine gone", address=self.target.address, status=answer.status_code)
            await run_sync(self.calls.give_up)
        raise self.target.refusal_of(answer, raw, self.prompt_field)

    async def _send(self, question: EngineRequest) -> httpx.Response:
        sent = self.client.build_request(
            "POST",
            f"{self.target.address}{self.path}",
            content=self.target.body(question.for_engine()),
            headers=self.target.headers,
            timeout=self._timeout,
        )
        return await self.client.send(sent, stream=True)

    async def note_use(self) -> None:
        """Keep the engine loaded while it generates."""
        if self.queue.is_use_due():
            try:
                await run_sync(self.calls.note_use)
            except DATABASE_UNAVAILABLE_ERRORS as error:  # the answer goes on without it
                log.warning("the use of an engine was not recorded", error=str(error))

    async def give_up(self, error: Exception) -> ApiError:
        """Return the error to raise for a broken connection. Only an engine that is really gone is
        loaded again: that ends the answers of everyone else.
        """
        if self.target.is_upstream:
            log.warning("the upstream has not answered", error=repr(error))
            return upstream.failure_of(error)
        if await self._is_alive():
            log.warning("connection lost", address=self.target.address, error=repr(error))
        else:
            log.warning("engine gone", address=self.target.address, error=repr(error))
            await run_sync(self.calls.give_up)
        return Unavailable(
            "The engine of this model does not respond; try again.", code=ENGINE_UNAVAILABLE
        )

    async def _is_alive(self) -> bool:
        """Return True if the engine takes a connection and answers at all. One beside others is
        given time: its lease says later whether it has gone.
        """
        has_others = self.target.num_replicas > 1
        try:
            await self.client.get(
                f"{self.target.address}/health",
                headers=self.target.headers,
                timeout=REPLICA_HEALTH_SECONDS if has_others else CONNECT_SECONDS,
            )
        except httpx.TimeoutException:
            return has_others
        except httpx.TransportError:
            return False
        return True

    @property
    def _timeout(self) -> httpx.Timeout:
        seconds = REPLICA_CONNECT_SECONDS if self.target.num_replicas > 1 else CONNECT_SECONDS
        return httpx.Timeout(RESPONSE_SECONDS, connect=seconds)


def make_client(idle_seconds: float = 0.0) -> httpx.AsyncClient:
    """Return a client that keeps idle connections for so long. With 0 each request has a connection
    of its own: an engine may close an idle one while we send.
    """
    limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=0)
    if idle_seconds:
        limits = httpx.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=idle_seconds)
    timeout = httpx.Timeout(RESPONSE_SECONDS, connect=CONNECT_SECONDS)
    transport = httpx.AsyncHTTPTransport(limits=limits, trust_env=False, socket_options=KEEPALIVE)
    return httpx.AsyncClient(timeout=timeout, transport=transport, trust_env=False)


async def fetch_answer(
    exchange: Exchange,
    questions: Sequence[EngineRequest],
    request: Request,
    rewriter: Rewriter,
    form: AnswerForm,
) -> Response:
    """Return the answers of all requests as one. Raises `Unavailable` if the engine is gone, and
    its refusals.
    """
    documents: list[dict[str, Any]] = [{}] * len(questions)

    async def fetch(question: EngineRequest) -> None:
        opened = await exchange.open(question, await exchange.take_turn())
        try:
            raw = await opened.answer.aread()
        finally:
            await opened.close()
        document = documents[question.choice] = parse(raw)
        if usage := usage_of(document):
            exchange.tally.set_usage(question, usage)

    fetch_all = partial(run_all, [partial(fetch, question) for question in questions])
    await while_connected(fetch_all, request, exchange)
    is_private = exchange.target.is_private
    document = join(questions, documents, rewriter, exchange.tally, is_private=is_private)
    exchange.target.name_as_asked(document)
    return Response(dump(form.whole(document)), headers=headers("application/json"))


async def open_first(exchange: Exchange, question: EngineRequest, request: Request) -> OpenAnswer:
    """Return the first of several answers; a refusal comes before a stream has begun."""
    opened: OpenAnswer | None = None

    async def open_() -> OpenAnswer:
        nonlocal opened
        opened = await exchange.open(question, await exchange.take_turn())
        return opened

    try:
        return await while_connected(open_, request, exchange)
    except ClientGone:
        if opened is not None:
            await opened.close()
        raise


async def run_all(works: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Run several coroutines at once; raise the first failure as it is, and stop the others."""
    failure: Exception | None = None

    async def run(work: Callable[[], Awaitable[None]]) -> None:
        nonlocal failure
        try:
            await work()
        except Exception as error:  # out of a task group it would come as a group
            failure = failure or error
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for work in works:
            group.start_soon(run, work)
    if failure is not None:
        raise failure


async def while_connected(
    work: Callable[[], Awaitable[T]], request: Request, exchange: Exchange
) -> T:
    """Return the result of the work, and stop it when the client disconnects, so that the engine
    stops, too. Raises `Unavailable` if the engine is gone.
    """

    async def finish() -> None:
        raise _Done(await work())

    async def watch() -> None:
        while not await request.is_disconnected():
            await exchange.note_use()
            await anyio.sleep(CHECKED_EVERY_SECONDS)
        raise ClientGone("The client has gone.")

    try:
        await run_all([finish, watch])
    except _Done as done:
        result: T = done.result
        return result
    except CONNECTION_ERRORS as error:
        raise await exchange.give_up(error) from None
    raise AssertionError("one of the two raises")


class _Done(Exception):
    """The work has ended."""

    def __init__(self, result: Any) -> None:
        self.result = result


def headers(content_type: str) -> dict[str, str]:
    return {"content-type": content_type, "cache-control": "no-store"}
