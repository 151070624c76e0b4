import asyncio
from collections.abc import Awaitable, Callable

import pytest

from app.notifier.watched import EventFeed, EventPage


class Table:
    """Events that have been written, and how often somebody read them."""

    def __init__(self) -> None:
        self.last, self.num_reads = 0, 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def read(self, after: int) -> EventPage:
        self.num_reads += 1
        await self.may_answer.wait()
        return EventPage([(seq, b"") for seq in range(after + 1, self.last + 1)], None)


async def follow(
    watched: EventFeed, read: Callable[[int], Awaitable[EventPage]], until: int
) -> list[int]:
    """As a stream does."""
    seqs: list[int] = [0]
    while seqs[-1] < until:
        changed = watched.changed
        page = await watched.page(seqs[-1], read)
        seqs += [seq for seq, _ in page.events]
        if seqs[-1] < until:
            await changed.wait()
    return seqs


def test_readers_at_the_same_place_cause_one_read() -> None:
    async def scenario() -> None:
        watched = EventFeed()
        table = Table()
        readers = [asyncio.create_task(follow(watched, table.read, until=3)) for _ in range(100)]
        for last in (1, 2, 3):
            for _ in range(10):  # more turns than it takes until all wait for the next event
                await asyncio.sleep(0)
            table.last = last
            watched.wake()
        assert await asyncio.gather(*readers) == [[0, 1, 2, 3]] * 100
        assert table.num_reads == 4  # at first, then for each event

    asyncio.run(scenario())


def test_an_event_that_comes_while_a_page_is_read_is_not_missed() -> None:
    async def scenario() -> None:
        watched = EventFeed()
        table = Table()

        async def read(after: int) -> EventPage:
            page = await table.read(after)
            if table.last == 0:  # just after this look
                table.last = 1
                watched.wake()
            return page

        assert await asyncio.wait_for(follow(watched, read, until=1), 5) == [0, 1]

    asyncio.run(scenario())


def test_the_reader_that_began_a_read_may_go() -> None:
    async def scenario() -> None:
        watched = EventFeed()
        table = Table()
        table.last = 1
        table.may_answer.clear()
        first, second = (
            asyncio.create_task(follow(watched, table.read, until=1)) for _ in range(2)
        )
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        table.may_answer.set()
        assert await second == [0, 1]
        assert table.num_reads == 1

    asyncio.run(scenario())


def test_after_a_read_that_failed_the_next_reader_tries_again() -> None:
    async def scenario() -> None:
        watched = EventFeed()
        table = Table()

        async def fails(after: int) -> EventPage:
            raise ConnectionError

        readers = [asyncio.create_task(watched.page(0, fails)) for _ in range(2)]
        for reader in readers:
            with pytest.raises(ConnectionError):
                await reader
        table.last = 1
        assert (await watched.page(0, table.read)).events == [(1, b"")]

    asyncio.run(scenario())
