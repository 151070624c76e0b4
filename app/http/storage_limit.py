"""Limit on the share of an API process that the storage may block."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TypeVar

from anyio import CapacityLimiter, Semaphore, from_thread, move_on_after
from anyio.lowlevel import RunVar
from anyio.to_thread import run_sync

from app.base.errors import Unavailable

REQUESTS_AT_ONCE = 20  # half of the threads that serve requests, so the other half is always free
STREAMS_AT_ONCE = 20  # separate threads for responses whose bytes come through this process
WAIT_SECONDS = 20.0  # shorter than most load balancers wait for an answer

_turns: RunVar[Semaphore] = RunVar("storage_turns")  # one for each event loop
_streams: RunVar[CapacityLimiter] = RunVar("storage_streams")
_bodies: RunVar[CapacityLimiter] = RunVar("storage_bodies")
T = TypeVar("T")


@asynccontextmanager
async def storage_turn() -> AsyncIterator[None]:
    """Wait, without a thread, for one of the storage's slots.

    Raises `Unavailable` after a timeout.
    """
    turns = _turns_of_this_loop()
    with move_on_after(WAIT_SECONDS) as wait:
        await turns.acquire()
    if wait.cancelled_caught:
        raise Unavailable(
            f"The storage is busy or unavailable: {REQUESTS_AT_ONCE} requests wait for it, and "
            f"none of them ended within {WAIT_SECONDS:g} s. Try again.",
            code="storage_unavailable",
        )
    try:
        yield
    finally:
        turns.release()


async def read_in_threads(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Read from the storage in threads reserved for streams."""
    try:
        limiter = _streams.get()
    except LookupError:
        _streams.set(limiter := CapacityLimiter(STREAMS_AT_ONCE))
    while (chunk := await run_sync(next, chunks, None, limiter=limiter)) is not None:
        yield chunk


async def write_in_thread(write: Callable[[Iterator[bytes]], T], body: AsyncIterator[bytes]) -> T:
    """Pass a body on as it arrives, in a thread reserved for streams."""
    try:
        limiter = _bodies.get()
    except LookupError:
        _bodies.set(limiter := CapacityLimiter(STREAMS_AT_ONCE))

    def chunks() -> Iterator[bytes]:
        while (chunk := from_thread.run(anext, body, None)) is not None:
            yield chunk

    return await run_sync(write, chunks(), limiter=limiter)


def _turns_of_this_loop() -> Semaphore:
    try:
        return _turns.get()
    except LookupError:
        _turns.set(turns := Semaphore(REQUESTS_AT_ONCE))
        return turns
