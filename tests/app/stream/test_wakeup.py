import asyncio
import time
from pathlib import Path

from redis import Redis

from app.stream.wakeup import POLL_SECONDS, Wakeups, publish
from tests.support.valkey import Valkey

SOON = POLL_SECONDS / 2


async def seconds_until_awake(wakeups: Wakeups, redis: Redis, job_id: str, seconds: float = 15) -> float:
    """The shortest wait within some tries; a subscription may still be under way at the first."""
    deadline, shortest = time.monotonic() + seconds, POLL_SECONDS
    while shortest >= SOON and time.monotonic() < deadline:
        with wakeups.of(job_id) as wait:
            started = time.monotonic()
            waiting = asyncio.ensure_future(wait())
            await asyncio.sleep(0)
            publish(redis, "ftjob-a", 1)
            await waiting
            shortest = min(shortest, time.monotonic() - started)
    return shortest


def test_a_reader_is_woken_and_survives_the_loss_of_redis(valkey: Valkey) -> None:
    async def scenario() -> None:
        url = valkey.settings.resolved_redis_url
        wakeups = Wakeups(url)
        with Redis.from_url(url) as redis:
            async with wakeups.running():
                assert await seconds_until_awake(wakeups, redis, "ftjob-a") < SOON
                valkey.kill()
                with wakeups.of("ftjob-a") as wait:
                    started = time.monotonic()
                    publish(redis, "ftjob-a", 2)
                    await wait()
                    assert POLL_SECONDS * 0.9 < time.monotonic() - started < POLL_SECONDS * 2
                valkey.start()
                assert await seconds_until_awake(wakeups, redis, "ftjob-a") < SOON

    asyncio.run(scenario())


def test_only_readers_of_that_job_are_woken_and_nothing_is_left_behind(valkey: Valkey) -> None:
    async def scenario() -> None:
        url = valkey.settings.resolved_redis_url
        wakeups = Wakeups(url)
        with Redis.from_url(url) as redis:
            async with wakeups.running():
                assert await seconds_until_awake(wakeups, redis, "ftjob-a") < SOON
                assert await seconds_until_awake(wakeups, redis, "ftjob-b", seconds=0.1) >= SOON
        assert not wakeups._waiting

    asyncio.run(scenario())


def test_without_redis_a_reader_only_looks_every_second(tmp_path: Path) -> None:
    async def scenario() -> None:
        wakeups = Wakeups(f"unix://{tmp_path / 'nobody.sock'}")
        async with wakeups.running():
            with wakeups.of("ftjob-a") as wait:
                await asyncio.wait_for(wait(), POLL_SECONDS * 2)

    asyncio.run(scenario())
