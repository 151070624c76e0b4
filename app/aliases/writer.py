import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import structlog
from anyio.to_thread import run_sync
from sqlalchemy.exc import SQLAlchemyError

from app.aliases import service
from app.aliases.traffic import Traffic
from app.base.database import Database

WRITE_SECONDS = 2.0
log = structlog.get_logger()


@asynccontextmanager
async def counted_traffic(database: Database) -> AsyncIterator[Traffic]:
    """Yield counts of requests that go to the database every few seconds, and at the end."""
    traffic = Traffic()
    writing = asyncio.create_task(_write_repeatedly(database, traffic))
    try:
        yield traffic
    finally:
        writing.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([writing])
            await _try_to_write(database, traffic)


async def _write_repeatedly(database: Database, traffic: Traffic) -> None:
    while True:
        await asyncio.sleep(WRITE_SECONDS)
        await _try_to_write(database, traffic)


async def _try_to_write(database: Database, traffic: Traffic) -> None:
    try:
        await run_sync(service.write_traffic, database, traffic)
    except SQLAlchemyError as error:  # The counts stay for the next time.
        log.warning("requests of aliases are not written", error=str(error))
