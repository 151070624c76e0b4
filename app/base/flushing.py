"""Counts of a process that go to the database every few seconds, and at its end."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import structlog
from anyio.to_thread import run_sync
from sqlalchemy.exc import SQLAlchemyError

WRITE_SECONDS = 2.0
log = structlog.get_logger()


@asynccontextmanager
async def flushing(what: str, flush: Callable[[], None]) -> AsyncIterator[None]:
    """Call `flush` every few seconds and at the end. It keeps what it could not write."""
    writing = asyncio.create_task(_flush_repeatedly(what, flush))
    try:
        yield
    finally:
        writing.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([writing])
            await _try_to_flush(what, flush)


async def _flush_repeatedly(what: str, flush: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(WRITE_SECONDS)
        await _try_to_flush(what, flush)


async def _try_to_flush(what: str, flush: Callable[[], None]) -> None:
    try:
        await run_sync(flush)
    except SQLAlchemyError as error:
        log.warning("counts are not written", counts=what, error=str(error))
    except Exception:  # top-level handler of a task: the next counts have to be written
        log.exception("counts are not written", counts=what)
