"""A hint on Redis that a job has new events. It carries no truth: losing it costs a reader at most one poll."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import structlog
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import RedisError

CHANNEL = "falqon:job:"
POLL_SECONDS = 1.0
RECONNECT_SECONDS = 1.0

log = structlog.get_logger()


def publish(redis: Redis, job_id: str, seq: int) -> None:
    """Wake the readers of a job; call it after the commit."""
    with suppress(RedisError, OSError):
        redis.publish(CHANNEL + job_id, seq)


class Wakeups:
    """One subscription for the whole process, however many streams are open."""

    def __init__(self, redis_url: str) -> None:
        self._url = redis_url
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._listen())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    @contextmanager
    def of(self, job_id: str) -> Iterator[Callable[[], Awaitable[None]]]:
        """Yields a wait that ends with the next event of the job, or when it is time to look anyway."""
        event = asyncio.Event()
        self._waiting[job_id].add(event)

        async def wait() -> None:
            with suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), POLL_SECONDS)
            event.clear()

        try:
            yield wait
        finally:
            self._waiting[job_id].discard(event)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def _listen(self) -> None:
        heard = True
        while True:
            try:
                async with (
                    AsyncRedis.from_url(self._url, socket_connect_timeout=5, health_check_interval=10) as redis,
                    redis.pubsub() as pubsub,
                ):
                    await pubsub.psubscribe(CHANNEL + "*")
                    heard = True
                    async for message in pubsub.listen():
                        if message["type"] == "pmessage":
                            self._wake(message["channel"].decode().removeprefix(CHANNEL))
            except (RedisError, OSError) as error:
                if heard:
                    log.warning("no wake-ups from Redis; streams look every second", error=str(error))
                heard = False
            await asyncio.sleep(RECONNECT_SECONDS)

    def _wake(self, job_id: str) -> None:
        for event in self._waiting.get(job_id, ()):
            event.set()
