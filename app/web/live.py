"""Pages that go on: one stream a page. It carries parts of the page by the id of their element, each only when it has changed."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress

from sse_starlette import ServerSentEvent

from app.dependencies import Services
from app.stream.endpoints import patiently

PAUSE_SECONDS = 0.5  # between two messages, however much happens

Parts = Mapping[str, str]  # HTML by the id of the element that it replaces


async def parts(
    app: Services, key_id: str, followed: str, render: Callable[[], Parts], every_seconds: float | None = None
) -> AsyncIterator[bytes]:
    """All parts at first, for what happened since the page was made. `every_seconds`: look that often even if nobody says so."""
    sent: Parts = {}
    with app.wakeups.watching(followed, key_id) as watched:
        while not app.wakeups.refuses(key_id):
            changed = watched.changed  # taken before the look: what comes after that is not slept through
            now = await patiently(render)
            if message := replaced(sent, now):
                yield ServerSentEvent(message).encode()
            sent = now
            await rest(changed, every_seconds)


async def rest(changed: asyncio.Event, at_most_seconds: float | None = None) -> None:
    await asyncio.sleep(PAUSE_SECONDS)
    with suppress(TimeoutError):
        await asyncio.wait_for(changed.wait(), at_most_seconds)


def replaced(before: Parts, now: Parts) -> str:
    return "".join(partial(f"#{id_}", "outerMorph", html) for id_, html in now.items() if before.get(id_) != html)


def partial(target: str, swap: str, html: str) -> str:
    return f'<hx-partial hx-target="{target}" hx-swap="{swap}">{html}</hx-partial>'
