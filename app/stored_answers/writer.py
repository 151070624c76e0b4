import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import structlog
from anyio.to_thread import run_sync

from app.base import counters
from app.base.database import DATABASE_UNAVAILABLE_ERRORS, Database
from app.stored_answers.queue import AnswerQueue, NewAnswer
from app.stored_answers.storing import store

GATHER_SECONDS = 0.05  # in which more answers come to be written with the first
RETRY_SECONDS = 2.0
log = structlog.get_logger()


@asynccontextmanager
async def answer_queue(database: Database) -> AsyncIterator[AnswerQueue]:
    """Yield a queue whose answers are written as they come, and the last ones at the end."""
    queue = AnswerQueue()
    writing = asyncio.create_task(_write_repeatedly(database, queue))
    try:
        yield queue
    finally:
        writing.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([writing])
            while queue and await _try_to_write(database, queue):
                pass
        counters.ANSWERS_NOT_STORED.labels("database_unavailable").inc(len(queue))


async def _write_repeatedly(database: Database, queue: AnswerQueue) -> None:
    while True:
        await queue.wait_for_answers()
        await asyncio.sleep(GATHER_SECONDS)
        if not await _try_to_write(database, queue):
            await asyncio.sleep(RETRY_SECONDS)


async def _try_to_write(database: Database, queue: AnswerQueue) -> bool:
    """Write the oldest answers; return False while the database is unavailable."""
    try:
        await _write(database, queue, queue.oldest())
    except DATABASE_UNAVAILABLE_ERRORS as error:  # they stay in the queue
        log.warning("stored answers are not written", error=str(error), num_answers=len(queue))
        return False
    return True


async def _write(database: Database, queue: AnswerQueue, answers: list[NewAnswer]) -> None:
    try:
        await run_sync(store, database, answers)
    except DATABASE_UNAVAILABLE_ERRORS:
        raise
    except Exception:  # one answer must not keep all others from being written
        if len(answers) > 1:
            for answer in answers:
                await _write(database, queue, [answer])
            return
        log.exception("an answer was not stored")
        counters.ANSWERS_NOT_STORED.labels("failed").inc()
    queue.remove(answers)
