"""Job that streams follow. Its readers are mostly at the same place, so one of them reads a page
and all of them send it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EventPage:
    """Next events, encoded, and the number of the last event, once that is certain."""

    events: list[tuple[int, bytes]]
    ended_at: int | None
    has_more: bool = False  # behind it, already


class EventFeed:
    """Without a shared read, 2,000 readers kept a process busy without any event."""

    def __init__(self) -> None:
        self.num_readers = 0
        # Set once, with the next wake-up; then another takes its place.
        self.changed = asyncio.Event()
        self._read: tuple[int, asyncio.Future[EventPage]] | None = None

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()
        self._read = None

    async def page(self, after: int, read: Callable[[int], Awaitable[EventPage]]) -> EventPage:
        """Return the rows after `after`; they are read again only after a wake-up, or elsewhere."""
        if self._read is None or self._read[0] != after:
            self._read = after, asyncio.ensure_future(read(after))
            self._read[1].add_done_callback(self._forget_failed)
        # The reader that began it may go; the others still wait for it.
        if self._read[1].done():
            return self._read[1].result()
        return await asyncio.shield(self._read[1])

    def _forget_failed(self, read: asyncio.Future[EventPage]) -> None:
        if (
            (read.cancelled() or read.exception())
            and self._read is not None
            and self._read[1] is read
        ):
            self._read = None
