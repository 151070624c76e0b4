import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from redis import Redis
from sqlalchemy.exc import OperationalError

from app.notifier.wakeups import POLL_SECONDS, Changes, Wakeups, publish
from tests.support.valkey import Valkey

SOON = POLL_SECONDS / 2
KEY = "key_a"


class Jobs:
    """What looks find in the database."""

    def __init__(self) -> None:
        self.seqs = {"ftjob-a": 1, "ftjob-b": 1}
        self.is_away = False
        self.revoked: set[str] = set()
        self.looks: list[list[str]] = []

    def look(self, job_ids: Sequence[str], key_ids: Sequence[str]) -> Changes:
        self.looks.append(sorted(job_ids))
        if self.is_away:
            raise OperationalError("", {}, Exception("away"))
        return Changes(
            {job_id: self.seqs[job_id] for job_id in job_ids if job_id in self.seqs},
            self.revoked & set(key_ids),
        )


async def seconds_until_awake(
    wakeups: Wakeups, redis: Redis, job_id: str, seconds: float = 15
) -> float:
    """The shortest wait within some tries; a subscription may still be under way at the first."""
    deadline = time.monotonic() + seconds
    shortest = POLL_SECONDS
    while shortest >= SOON and time.monotonic() < deadline:
        with wakeups.watching(job_id, KEY) as job:
            started = time.monotonic()
            changed = job.changed
            publish(redis, "ftjob-a", 1)
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), POLL_SECONDS)
            shortest = min(shortest, time.monotonic() - started)
    return shortest


def test_a_reader_is_woken_and_survives_the_loss_of_redis(valkey: Valkey) -> None:
    async def scenario() -> None:
        url = valkey.settings.resolved_redis_url
        jobs = Jobs()
        wakeups = Wakeups(url, jobs.look)
        with Redis.from_url(url) as redis:
            async with wakeups.running():
                assert await seconds_until_awake(wakeups, redis, "ftjob-a") < SOON
                valkey.kill()
                await a_change_is_noticed(wakeups, jobs)
                valkey.start()
                assert await seconds_until_awake(wakeups, redis, "ftjob-a") < SOON

    asyncio.run(scenario())


async def more_looks(jobs: Jobs) -> None:
    num_looks = len(jobs.looks) + 2
    while len(jobs.looks) < num_looks:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.05)  # for the last to take effect


async def a_change_is_noticed(wakeups: Wakeups, jobs: Jobs) -> None:
    """By the look at the database alone, and nothing else wakes."""
    with wakeups.watching("ftjob-a", KEY) as a, wakeups.watching("ftjob-b", KEY) as b:
        await more_looks(jobs)  # which wake both, where they are new
        changed = a.changed
        quiet = b.changed
        jobs.seqs["ftjob-a"] += 1
        await asyncio.wait_for(changed.wait(), POLL_SECONDS * 5)
        gone = a.changed
        await more_looks(jobs)
        assert not gone.is_set()
        assert not quiet.is_set()
        del jobs.seqs["ftjob-a"]
        await asyncio.wait_for(gone.wait(), POLL_SECONDS * 5)


def test_only_readers_of_that_job_are_woken_and_nothing_is_left_behind(valkey: Valkey) -> None:
    async def scenario() -> None:
        url = valkey.settings.resolved_redis_url
        wakeups = Wakeups(url, Jobs().look)
        with Redis.from_url(url) as redis:
            async with wakeups.running():
                assert await seconds_until_awake(wakeups, redis, "ftjob-a") < SOON
                with wakeups.watching("ftjob-a", KEY) as a, wakeups.watching("ftjob-b", KEY) as b:
                    first = a.changed, b.changed
                    publish(redis, "ftjob-a", 1)
                    await first[0].wait()
                    assert not first[1].is_set()
        assert not wakeups._watched

    asyncio.run(scenario())


def test_without_redis_and_for_a_while_without_a_database_a_change_is_still_noticed(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        jobs = Jobs()
        wakeups = Wakeups(f"unix://{tmp_path / 'nobody.sock'}", jobs.look)
        async with wakeups.running():
            jobs.is_away = True
            with wakeups.watching("ftjob-a", KEY):
                while not jobs.looks:
                    await asyncio.sleep(0.05)
                jobs.is_away = False
                await a_change_is_noticed(wakeups, jobs)

    asyncio.run(scenario())


def test_many_readers_look_once_a_second_and_none_not_at_all(tmp_path: Path) -> None:
    async def scenario() -> None:
        jobs = Jobs()
        wakeups = Wakeups(f"unix://{tmp_path / 'nobody.sock'}", jobs.look)
        async with wakeups.running():
            await asyncio.sleep(POLL_SECONDS * 1.5)
            assert jobs.looks == []
            with (
                wakeups.watching("ftjob-a", KEY) as first,
                wakeups.watching("ftjob-a", KEY),
                wakeups.watching("ftjob-b", KEY),
            ):
                await first.changed.wait()
            assert jobs.looks == [["ftjob-a", "ftjob-b"]]

    asyncio.run(scenario())


def test_readers_hear_that_their_key_opens_nothing_any_more(tmp_path: Path) -> None:
    async def scenario() -> None:
        jobs = Jobs()
        wakeups = Wakeups(f"unix://{tmp_path / 'nobody.sock'}", jobs.look)
        async with wakeups.running():
            with wakeups.watching("ftjob-a", KEY) as job, wakeups.watching("ftjob-a", "key_b"):
                await more_looks(jobs)
                changed = job.changed
                jobs.revoked.add(KEY)
                await asyncio.wait_for(changed.wait(), POLL_SECONDS * 5)
                assert wakeups.refuses(KEY)
                assert not wakeups.refuses("key_b")
        assert not wakeups._keys

    asyncio.run(scenario())
