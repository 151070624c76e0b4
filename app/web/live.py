"""Pages that go on: one stream a page. It carries parts of the page by the id of their element,
each only when it has changed.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress

from sse_starlette import ServerSentEvent

from app.base.errors import NotFound
from app.http.event_stream import read_with_retry
from app.services import Services

PAUSE_SECONDS = 0.5  # between two messages, however much happens
# A look that takes long, such as a search through all jobs, is followed by a longer pause: it takes
# a tenth of the time at most, until that would be too long to wait for.
LOOKS_IN_PAUSE = 9
MAX_PAUSE_SECONDS = 5.0

Parts = Mapping[str, str]  # HTML by the id of the element that it replaces


async def parts(
    services: Services,
    key_id: str,
    followed: str,
    render: Callable[[], Parts],
    every_seconds: float | None = None,
) -> AsyncIterator[bytes]:
    """Send all parts at first, for what happened since the page was made. `every_seconds`: look
    that often even if nobody says so.
    """
    sent: Parts = {}
    with services.wakeups.watching(followed, key_id) as watched:
        while not services.wakeups.refuses(key_id):
            # taken before the look: what comes after that is not slept through
            changed = watched.changed
            began = time.monotonic()
            try:
                now = await read_with_retry(render)
            except NotFound:  # deleted meanwhile
                return
            took = time.monotonic() - began
            if message := replaced(sent, now):
                yield ServerSentEvent(message).encode()
            sent = now
            await rest(changed, every_seconds, took)


async def rest(
    changed: asyncio.Event, at_most_seconds: float | None = None, took: float = 0.0
) -> None:
    """Wait until something has changed. `took`: how many seconds the last look did."""
    await asyncio.sleep(pause(took))
    with suppress(TimeoutError):
        await asyncio.wait_for(changed.wait(), at_most_seconds)


def pause(took: float) -> float:
    """Tell how many seconds to leave the database alone after a look that took so many."""
    return min(max(PAUSE_SECONDS, took * LOOKS_IN_PAUSE), MAX_PAUSE_SECONDS)


def replaced(before: Parts, now: Parts) -> str:
    return "".join(
        partial(f"#{id_}", "outerMorph", html)
        for id_, html in now.items()
        if before.get(id_) != html
    )


def partial(target: str, swap: str, html: str) -> str:
    return f'<hx-partial hx-target="{target}" hx-swap="{swap}">{html}</hx-partial>'
