"""Hand a question to an engine and its answer back, byte by byte as it comes."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import anyio
import httpx
import structlog
from anyio.to_thread import run_sync
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.base.errors import ApiError, Unavailable
from app.http.error_handlers import body as error_body
from app.inference.refusals import GONE, refusal_of
from app.inference.schemas import InferenceRequest
from app.inference.service import Target
from app.inference.usage import UsageStream, num_tokens_of

CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 600.0  # as long as the official client waits
MAX_CONNECTIONS = 2_000
IDLE_SECONDS = 2.0  # engines close a connection that rests for 5 s, and may do so as we ask
NOTED_EVERY_SECONDS = 5.0
CHECKED_EVERY_SECONDS = 0.5

log = structlog.get_logger()


class Calls(NamedTuple):
    """What is called beside passing an answer on; each waits for a database or for Redis."""

    note_use: Callable[[], None]
    give_up: Callable[[], None]
    charge: Callable[[int], None]  # with the tokens that the answer took


class ClientGone(ApiError):
    """Nobody reads this answer."""

    status = 499
    code = "client_gone"


class AnswerStream(StreamingResponse):
    """What the engine streams. The engine stops with it, also where it ends before it began."""

    def __init__(self, answer: httpx.Response, usage: UsageStream, calls: Calls) -> None:
        super().__init__(_parts(answer, usage, calls), headers=_answer_headers(answer))
        self._answer = answer
        self._usage = usage
        self._calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                with suppress(httpx.HTTPError):
                    await self._answer.aclose()
                if num_tokens := self._usage.take_tokens(is_over=True):
                    await run_sync(self._calls.charge, num_tokens)


def make_client() -> httpx.AsyncClient:
    return httpx.AsyncClient(
        timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=IDLE_SECONDS),
        trust_env=False,
    )


async def ask(
    client: httpx.AsyncClient,
    target: Target,
    request: Request,
    body: InferenceRequest,
    calls: Calls,
) -> Response:
    """Return the engine's answer. Raises `Unavailable` where the engine is gone, after `give_up`;
    `InvalidRequest` with what it refuses.
    """
    # The dashboard has the API's address behind one of its own.
    path = "/v1" + request.url.path.rpartition("/v1")[2]
    question = client.build_request(
        "POST", f"{target.address}{path}", content=body.for_engine(), headers=target.headers
    )
    try:
        answer = await _send_while_connected(client, question, request)
        if answer.status_code != httpx.codes.OK:
            raise await _refusal(answer)
        if _is_stream(answer):
            usage = UsageStream(is_hidden=not body.wants_usage)
            return AnswerStream(answer, usage, calls)
        content = await _read_while_connected(answer, request)
        await run_sync(lambda: calls.charge(num_tokens_of(content)))
        return Response(content, headers=_answer_headers(answer))
    except GONE as error:
        log.warning("engine gone", address=target.address, error=repr(error))
        await run_sync(calls.give_up)
        raise Unavailable(
            "The engine of this model does not answer; ask again.", code="engine_unavailable"
        ) from None


def _answer_headers(answer: httpx.Response) -> dict[str, str]:
    return {
        "content-type": answer.headers.get("content-type", "application/json"),
        "cache-control": "no-store",
    }


def _is_stream(answer: httpx.Response) -> bool:
    return str(answer.headers.get("content-type", "")).startswith("text/event-stream")


async def _send_while_connected(
    client: httpx.AsyncClient, question: httpx.Request, request: Request
) -> httpx.Response:
    send = partial(client.send, question, stream=True)
    answer: httpx.Response = await _while_connected(send, request)
    return answer


async def _read_while_connected(answer: httpx.Response, request: Request) -> bytes:
    try:
        content: bytes = await _while_connected(answer.aread, request)
        return content
    finally:
        await answer.aclose()


async def _while_connected(work: Callable[[], Any], request: Request) -> Any:
    """Stop the work when the client goes away, so that the engine does not go on for nobody."""
    result = None
    failure: Exception | None = ClientGone("The client has gone.")

    async def finish() -> None:
        nonlocal result, failure
        try:
            result = await work()
            failure = None
        except GONE as error:  # raised below: out of a task group it would come as a group
            failure = error
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(finish)
        while not await request.is_disconnected():
            await anyio.sleep(CHECKED_EVERY_SECONDS)
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result


async def _parts(answer: httpx.Response, usage: UsageStream, calls: Calls) -> AsyncIterator[bytes]:
    noted_at = time.monotonic()
    try:
        async for part in answer.aiter_raw():
            passed_on = usage.pass_on(part)
            if num_tokens := usage.take_tokens():  # before the client can ask again
                await run_sync(calls.charge, num_tokens)
            if passed_on:
                yield passed_on
            if time.monotonic() > noted_at + NOTED_EVERY_SECONDS:
                noted_at = time.monotonic()
                await run_sync(calls.note_use)
        if passed_on := usage.end():
            yield passed_on
    except GONE as error:
        log.warning("engine gone in the middle of an answer", error=repr(error))
        await run_sync(calls.give_up)
        yield _error_event()


def _error_event() -> bytes:
    """Return an event that the official client raises, apart from one that has begun."""
    message = "The engine ended before the answer did; ask again."
    error = httpx.Response(200, json=error_body(message, "server_error", None, "engine_failed"))
    return b"\ndata: " + error.content + b"\n\n"


async def _refusal(answer: httpx.Response) -> ApiError:
    try:
        raw = await answer.aread()
    finally:
        await answer.aclose()
    return refusal_of(answer.status_code, raw)
