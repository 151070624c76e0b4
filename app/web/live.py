"""Pages that go on: one stream a page. It carries parts of the page by the id of their element,
each only when it has changed.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import TypeVar
from weakref import WeakKeyDictionary

from sse_starlette import EventSourceResponse

from app.auth.caller import Caller
from app.base.errors import NotFound
from app.http.event_stream import encode_event, event_stream, read_with_retry
from app.services import Services

MIN_PAUSE_SECONDS = 0.5  # between two messages, however much happens
# A slow poll, such as a search through all jobs or one behind other pages, is followed by a longer
# pause: polling takes a tenth of the time at most, until that would be too long to wait for.
PAUSE_FACTOR = 9
MAX_PAUSE_SECONDS = 5.0
# Of open pages of a process: requests, and workers that reach only the API, need the other threads.
POLLS_AT_ONCE = 2

T = TypeVar("T")
_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

Parts = Mapping[str, str]  # HTML by the id of the element that it replaces


def stream(
    services: Services,
    caller: Caller,
    render: Callable[[], Parts],
    every_seconds: float | None = None,
) -> EventSourceResponse:
    """Send all parts at first, for what happened since the page was made. `every_seconds`: poll
    that often, even without a notification.
    """
    return event_stream(_messages(services, caller, render, every_seconds))


async def _messages(
    services: Services, caller: Caller, render: Callable[[], Parts], every_seconds: float | None
) -> AsyncIterator[bytes]:
    sent: Parts = {}
    with services.wakeups.watching(caller.project_id, caller.key_id) as watched:
        while not services.wakeups.refuses(caller.key_id):
            # The ticket is taken before the poll, so that a later notification is not slept
            # through.
            changed = watched.changed
            began = time.monotonic()
            try:
                now = await read_in_turn(render)
            except NotFound:  # deleted meanwhile
                return
            took = time.monotonic() - began
            if message := replaced(sent, now):
                yield encode_event(message)
            sent = now
            await rest(changed, every_seconds, took)


async def read_in_turn(read: Callable[[], T]) -> T:
    """Read in a thread, behind other pages that do."""
    loop = asyncio.get_running_loop()
    async with _turns.setdefault(loop, asyncio.Semaphore(POLLS_AT_ONCE)):
        return await read_with_retry(read)


async def rest(
    changed: asyncio.Event, at_most_seconds: float | None = None, took: float = 0.0
) -> None:
    """Wait until something has changed. `took`: seconds of the last poll."""
    await asyncio.sleep(pause(took))
    with suppress(TimeoutError):
        await asyncio.wait_for(changed.wait(), at_most_seconds)


def pause(took: float) -> float:
    """Return the seconds until the next poll after one that took so many."""
    return min(max(MIN_PAUSE_SECONDS, took * PAUSE_FACTOR), MAX_PAUSE_SECONDS)


def replaced(before: Parts, now: Parts) -> str:
    return "".join(
        partial(f"#{id_}", "outerMorph", html)
        for id_, html in now.items()
        if before.get(id_) != html
    )


def partial(target: str, swap: str, html: str) -> str:
    return f'<hx-partial hx-target="{target}" hx-swap="{swap}">{html}</hx-partial>'
