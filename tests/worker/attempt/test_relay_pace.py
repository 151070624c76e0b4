"""How often events are written: seldom while nobody reads them, each second while somebody does."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from redis import Redis
from sqlalchemy import event

from app.models import DEFAULT_PROJECT_ID
from app.notifier.wakeups import Changes, Wakeups, are_watched
from falqon_core.contract.messages import Log, encode
from tests.support.backend import Backend
from tests.support.valkey import Valkey
from tests.worker.attempt.relays import add_running_job, gateway_of, relay_of
from worker.attempt.spool import Spool

SECONDS = 20
UNREAD_SECONDS = 5.0


class Running:
    """A job whose trainer says something each second, by a clock that the test moves."""

    def __init__(self, backend: Backend, redis: Redis) -> None:
        self.job_id = add_running_job(backend)
        self._backend = backend
        self._ticks = 0
        gateway, job = gateway_of(backend, redis), backend.job(self.job_id)
        self._relay = relay_of(
            backend,
            self.job_id,
            gateway,
            Spool(backend.settings.data_dir / f"{self.job_id}.spool"),
            is_watched=lambda: gateway.is_watched(job),
            unread_seconds=UNREAD_SECONDS,
            clock=lambda: self._ticks / 10,
        )

    def num_transactions(self, per_second: int = 1) -> int:
        """Go on for a while; count what the database had to commit."""
        with counted_commits(self._backend) as commits:
            for _ in range(SECONDS):
                self._say(per_second)
                for _ in range(10):
                    self._ticks += 1
                    self._relay.pump()
        return len(commits)

    def _say(self, count: int) -> None:
        read_end, write_end = os.pipe()
        os.write(write_end, encode(Log(text="still here")) * count)
        os.close(write_end)
        self._relay.read(os.fdopen(read_end, "rb"))
        self._relay.join(60)


@contextmanager
def counted_commits(backend: Backend) -> Iterator[list[object]]:
    commits: list[object] = []

    def note(connection: object) -> None:
        commits.append(connection)

    event.listen(backend.database.engine, "commit", note)
    try:
        yield commits
    finally:
        event.remove(backend.database.engine, "commit", note)


@pytest.fixture
def redis(valkey: Valkey) -> Iterator[Redis]:
    with Redis.from_url(valkey.settings.resolved_redis_url) as redis:
        yield redis


def test_events_without_a_reader_are_written_every_five_seconds(
    backend: Backend, redis: Redis
) -> None:
    running = Running(backend, redis)
    assert running.num_transactions() == SECONDS / UNREAD_SECONDS
    assert len(backend.events(running.job_id)) >= SECONDS - UNREAD_SECONDS


@pytest.mark.parametrize("followed", ["job", "project"])
def test_events_with_a_reader_are_written_every_second(
    backend: Backend, redis: Redis, valkey: Valkey, followed: str
) -> None:
    """And no longer once the stream has ended."""
    running = Running(backend, redis)
    id_ = running.job_id if followed == "job" else DEFAULT_PROJECT_ID

    async def watch() -> int:
        wakeups = Wakeups(valkey.settings.resolved_redis_url, lambda *_: Changes({}, set()))
        async with wakeups.running():
            with wakeups.watching(id_, "key"):
                while not are_watched(redis, [id_]):
                    await asyncio.sleep(0.01)
                while_watched = running.num_transactions()
            while are_watched(redis, [id_]):
                await asyncio.sleep(0.01)
            return while_watched

    assert asyncio.run(watch()) == SECONDS
    assert running.num_transactions() == SECONDS / UNREAD_SECONDS


def test_many_events_are_written_although_nobody_reads_them(backend: Backend, redis: Redis) -> None:
    """Never five seconds of them are in memory."""
    running = Running(backend, redis)
    assert running.num_transactions(per_second=500) == SECONDS


def test_without_redis_events_are_written_as_if_somebody_read_them(
    backend: Backend, redis: Redis, valkey: Valkey
) -> None:
    running = Running(backend, redis)
    valkey.kill()
    assert running.num_transactions() == SECONDS
