"""Server-sent events, as every stream of API and dashboard sends them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from anyio.to_thread import run_sync
from sse_starlette import EventSourceResponse, ServerSentEvent

from app.base.database import DATABASE_UNAVAILABLE_ERRORS

CURSOR_PATTERN = r"^[0-9]{1,9}$"
PING_SECONDS = 15
SEND_TIMEOUT_SECONDS = 10  # a reader that takes nothing for so long is gone
RETRY_SECONDS = 1.0  # seconds between two attempts while the database is unavailable
T = TypeVar("T")


class Ping(ServerSentEvent):
    """A comment without a blank line: after one, the `openai` client takes the remembered id for an
    event without data, and fails.
    """

    def encode(self) -> bytes:
        return b": ping\n"


def encode_event(data: str, *, event: str | None = None, id_: str | None = None) -> bytes:
    """Encode with line feeds alone: the stream of htmx takes a CRLF that comes in two pieces for
    two line ends, so that the event is cut in its middle and a part of it is lost.
    """
    return ServerSentEvent(data, event=event, id=id_, sep="\n").encode()


def event_stream(events: AsyncIterator[bytes]) -> EventSourceResponse:
    return EventSourceResponse(
        events,
        ping=PING_SECONDS,
        ping_message_factory=Ping,
        send_timeout=SEND_TIMEOUT_SECONDS,
        headers={"cache-control": "no-store"},
    )


async def read_with_retry(read: Callable[[], T]) -> T:
    """Read in a thread, and retry while the database is unavailable."""
    while True:
        try:
            return await run_sync(read)
        except (
            DATABASE_UNAVAILABLE_ERRORS
        ):  # disconnected readers would only come back, all at once
            await asyncio.sleep(RETRY_SECONDS)
