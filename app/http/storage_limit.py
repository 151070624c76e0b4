"""Limit on the share of an API process that the storage may block."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, TypeVar
from weakref import WeakValueDictionary

from anyio import CapacityLimiter, Semaphore, from_thread, move_on_after
from anyio.lowlevel import RunVar
from anyio.to_thread import run_sync
from fastapi import Depends, params

from app.base.errors import Unavailable

REQUESTS_AT_ONCE = 20  # half of the threads that serve requests, so the other half is always free
REQUESTS_PER_PROJECT = REQUESTS_AT_ONCE // 2  # slow ones leave room to others
STREAMS_AT_ONCE = 20  # separate threads for responses whose bytes come through this process
WAIT_SECONDS = 20.0  # shorter than most load balancers wait for an answer

_turns: RunVar[Semaphore] = RunVar("storage_turns")  # one for each event loop
# Shares of those that have requests at the moment.
_shares: RunVar[WeakValueDictionary[str, Semaphore]] = RunVar("storage_shares")
_streams: RunVar[CapacityLimiter] = RunVar("storage_streams")
_bodies: RunVar[CapacityLimiter] = RunVar("storage_bodies")
T = TypeVar("T")


def touches_storage(owner_of: Callable[..., Awaitable[str]]) -> list[params.Depends]:
    """Return the dependency of every route whose function reads or writes the storage. It ends with
    that function, so a slow client holds no slot: the body was read before, and the response is
    sent after. `owner_of` is a dependency as well: whose share the request takes its turn of.
    """

    async def take_turn(owner_id: Annotated[str, Depends(owner_of)]) -> AsyncIterator[None]:
        async with storage_turn(owner_id):
            yield

    return [Depends(take_turn, scope="function")]


@asynccontextmanager
async def storage_turn(owner_id: str) -> AsyncIterator[None]:
    """Wait, without a thread, for one of the storage's slots, first for one of those that this
    owner may hold: a project, a token of workers, all who follow links.

    Raises `Unavailable` after a timeout.
    """
    async with AsyncExitStack() as held:
        with move_on_after(WAIT_SECONDS) as wait:
            await held.enter_async_context(_share_of(owner_id))
            await held.enter_async_context(_turns_of_this_loop())
        if wait.cancelled_caught:
            raise Unavailable(
                "The storage is busy or unavailable: of the requests that wait for it, none ended "
                f"within {WAIT_SECONDS:g} s. Try again.",
                code="storage_unavailable",
            )
        yield


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


def _share_of(owner_id: str) -> Semaphore:
    try:
        shares = _shares.get()
    except LookupError:
        _shares.set(shares := WeakValueDictionary())
    return shares.setdefault(owner_id, Semaphore(REQUESTS_PER_PROJECT))


def _turns_of_this_loop() -> Semaphore:
    try:
        return _turns.get()
    except LookupError:
        _turns.set(turns := Semaphore(REQUESTS_AT_ONCE))
        return turns
