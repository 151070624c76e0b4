"""Hints on Redis: one that a job has new events, another that a reader follows them. Neither
carries truth: losing the first costs a reader at most one poll of the database, losing the second
some seconds.

A stream follows a job, or all jobs of a project; either is named by its id, and so is the channel
that its readers' process subscribes to.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

import structlog
from anyio.to_thread import run_sync
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from app.notifier.watched import EventFeed

CHANNEL = "falqon:job:"
POLL_SECONDS = 1.0  # a revoked key must be dead within five
RECONNECT_SECONDS = 1.0

log = structlog.get_logger()


def publish(redis: Redis, job_id: str, seq: int) -> None:
    """Wake the readers of a job; call it after the commit."""
    with suppress(RedisError, OSError):
        redis.publish(CHANNEL + job_id, seq)


def are_watched(redis: Redis, ids: Sequence[str]) -> bool:
    """Return True if a stream follows one of these jobs and projects, or if that is unknown."""
    try:
        counts = redis.pubsub_numsub(*(CHANNEL + id_ for id_ in ids))
    except (RedisError, OSError):
        return True
    return any(count for _, count in counts)


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes in the database: for each existing job or project a value that changes whenever its
    stream goes on; and the keys that are no longer valid.
    """

    states: Mapping[str, object]
    refused_keys: set[str]


class Wakeups:
    """Wake-ups of a process: one subscription and one poll a second, independently of the number of
    open streams.
    """

    def __init__(
        self, redis_url: str, read_changes: Callable[[Sequence[str], Sequence[str]], Changes]
    ) -> None:
        """Create the subscription. `read_changes`: of these jobs and projects, and of these API
        keys.
        """
        self._url = redis_url
        self._read_changes = read_changes
        self._watched: dict[str, EventFeed] = {}
        self._keys: Counter[str] = Counter()  # number of streams by channel
        self._refused_keys: set[str] = set()
        self._other_channels = asyncio.Event()  # set when the subscriptions must change

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._keep_polling())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @contextmanager
    def watching(self, followed: str, key_id: str) -> Iterator[EventFeed]:
        watched = self._watched.setdefault(followed, EventFeed())
        watched.num_readers += 1
        self._other_channels.set()
        self._keys[key_id] += 1
        try:
            yield watched
        finally:
            watched.num_readers -= 1
            if not watched.num_readers:
                del self._watched[followed]
                self._other_channels.set()
            self._keys[key_id] -= 1
            if not self._keys[key_id]:
                del self._keys[key_id]

    def refuses(self, key_id: str) -> bool:
        return key_id in self._refused_keys

    async def _keep_polling(self) -> None:
        before: Mapping[str, object] = {}
        while True:
            await asyncio.sleep(POLL_SECONDS)
            followed = list(self._watched)
            changes = Changes({}, set())
            try:
                if followed:
                    changes = await run_sync(self._read_changes, followed, list(self._keys))
            except SQLAlchemyError:  # readers notice it by themselves
                continue
            is_refusing = bool(changes.refused_keys - self._refused_keys)
            self._refused_keys = changes.refused_keys
            for id_ in followed:
                # A wake-up of a new channel may have been missed since its reader's last poll.
                if is_refusing or id_ not in before or changes.states.get(id_) != before[id_]:
                    self._wake(id_)
            before = {id_: changes.states.get(id_) for id_ in followed}

    async def _listen(self) -> None:
        is_away = False
        while True:
            try:
                async with (
                    AsyncRedis.from_url(
                        self._url, socket_connect_timeout=5, health_check_interval=10
                    ) as redis,
                    redis.pubsub() as pubsub,
                ):
                    # Unused channel: without any channel the connection cannot listen.
                    await pubsub.subscribe(CHANNEL)
                    is_away = False
                    has_ended = asyncio.Event()
                    subscribing = asyncio.create_task(self._keep_subscribing(pubsub, has_ended))
                    try:
                        await self._hear(pubsub)
                    finally:
                        has_ended.set()  # the client may lose the error that `cancel` raises
                        self._other_channels.set()
                        subscribing.cancel()
                        await asyncio.gather(subscribing, return_exceptions=True)
            except (RedisError, OSError) as error:
                if not is_away:
                    log.warning(
                        "no wake-ups from Redis; streams poll every second", error=str(error)
                    )
                is_away = True
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _hear(self, pubsub: PubSub) -> None:
        async for message in pubsub.listen():
            if message["type"] == "message":
                self._wake(message["channel"].decode().removeprefix(CHANNEL))

    async def _keep_subscribing(self, pubsub: PubSub, has_ended: asyncio.Event) -> None:
        """Subscribe to the channels of the streams, and to nothing else: a process hears only its
        own readers' jobs, independently of the number of running jobs. A connection that fails here
        fails in `_hear` too.
        """
        subscribed: set[str] = set()
        while not has_ended.is_set():
            self._other_channels.clear()
            followed = {CHANNEL + id_ for id_ in self._watched}
            if new := followed - subscribed:
                await pubsub.subscribe(*new)
            if old := subscribed - followed:
                await pubsub.unsubscribe(*old)
            subscribed = followed
            await self._other_channels.wait()

    def _wake(self, followed: str) -> None:
        if watched := self._watched.get(followed):
            watched.wake()
