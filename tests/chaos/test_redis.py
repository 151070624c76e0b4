"""Redis holds nothing: away, wiped or silent it costs a queued job a moment, and a running one
nothing at all.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest
from redis import Redis

from app.attempts.gateway import DirectGateway
from app.models import JobStatus
from tests.chaos.api_process import ApiProcess
from tests.chaos.conftest import Count
from tests.chaos.scale import SCALE, every_run_on
from tests.chaos.submitters import Client
from tests.support.backend import Backend
from tests.support.fake_trainer import FakeTrainer, weights_of
from tests.support.half_open import Link
from tests.support.valkey import Valkey
from tests.support.waiting import wait_for

POLL = timedelta(seconds=1)
# a worker looks every `poll` or so; as with the usual one, five more are for a busy machine
MAX_DELAY = 1.2 * POLL.total_seconds() + 5
MAX_DELAY_HALF_OPEN = 60.0  # without polling: until both ends have noticed
MOMENTS = ("before", "amid", "after")
SHORT = FakeTrainer(steps=3, checkpoint_every=3)


@pytest.fixture
def redis_url(valkey: Valkey) -> str:
    return valkey.settings.resolved_redis_url


def start_delay(backend: Backend, job_id: str) -> float:
    first = backend.attempts(job_id)[0]
    return (first.created_at - backend.job(job_id).created_at).total_seconds()


def assert_undisturbed(backend: Backend, job_id: str, fake: FakeTrainer) -> None:
    assert [attempt.outcome for attempt in backend.attempts(job_id)] == ["succeeded"]
    assert backend.weights(job_id) == weights_of(fake.steps)
    assert [event.seq for event in backend.events(job_id)] == list(
        range(1, backend.job(job_id).last_event_seq + 1)
    )


@every_run_on("postgres")
def test_a_redis_that_is_away_and_then_wiped_again_and_again(
    backend: Backend, valkey: Valkey, redis_url: str, tmp_path: Path, seed: int, count: Count
) -> None:
    chance = Random(seed)
    backend.settings = backend.settings.model_copy(update={"redis_url": redis_url, "poll": POLL})
    valkey.kill()
    run_fast = tmp_path / "run_fast"
    long = FakeTrainer(
        steps=2000,
        step_seconds=0.05 * max(1, SCALE.wipes / 5),
        run_fast=run_fast,
        checkpoint_every=100,
    )
    running = backend.add_job(long)
    workers = [backend.start_worker() for _ in range(2)]
    jobs: list[str] = []
    with ExitStack() as stack:
        api = ApiProcess(backend)
        stack.callback(api.close)
        client = stack.enter_context(Client(backend, api.url))
        file_id = client.upload(SHORT)

        def submit() -> None:
            operation = client.submit(file_id, f"{len(jobs)}")
            assert operation.acknowledged
            jobs.append(operation.body["id"])

        def wait_for_the_last() -> None:
            backend.wait_for_status(jobs[-1], JobStatus.SUCCEEDED)

        backend.wait_for_step(running, 5)
        submit()
        # the second worker is up, too; what it waited for measures nothing
        backend.wait_for_status(jobs.pop(), JobStatus.SUCCEEDED)
        submit()
        wait_for_the_last()
        valkey.start()
        for number in range(SCALE.wipes):
            moment = chance.choice(MOMENTS)
            with Redis.from_url(redis_url) as redis:
                redis.set("witness", number)
            if moment == "before":
                submit()
            valkey.kill()
            if moment == "amid":
                submit()
            valkey.start()
            if moment == "after":
                submit()
            time.sleep(chance.uniform(0, 1))
            with Redis.from_url(redis_url) as redis:
                assert redis.get("witness") is None, "not wiped"
                redis.flushall()
            wait_for_the_last()
        assert backend.job(running).status == JobStatus.RUNNING
        run_fast.touch()
        backend.wait_for_status(running, JobStatus.SUCCEEDED)
        wait_for(lambda: num_listening(redis_url) == len(workers), what="the workers listen again")
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait(30)
    delays = [start_delay(backend, job_id) for job_id in jobs]
    count(
        kills=SCALE.wipes, flushes=SCALE.wipes, jobs=len(jobs), latest_start=f"{max(delays):.1f}s"
    )
    assert max(delays) <= MAX_DELAY
    assert_undisturbed(backend, running, long)
    for job_id in jobs:
        assert_undisturbed(backend, job_id, SHORT)


@pytest.fixture
def link(valkey: Valkey) -> Iterator[Link]:
    with Link(valkey.settings.valkey_socket) as link:
        yield link


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_links_to_redis_that_fall_silent(backend: Backend, link: Link, count: Count) -> None:
    """Workers that look by themselves only every ten minutes, so each job starts because its
    message came through after all.
    """
    backend.settings = backend.settings.model_copy(
        update={"redis_url": link.url, "poll": timedelta(minutes=10)}
    )
    endless = FakeTrainer(steps=100_000, step_seconds=0.05)
    long = FakeTrainer(steps=300, step_seconds=0.05, checkpoint_every=50)
    num_links = 0
    delays = []
    running: list[str] = []
    with ExitStack() as stack:
        api = ApiProcess(backend)
        stack.callback(api.close)
        client = stack.enter_context(Client(backend, api.url))
        file_id = client.upload(endless)
        workers = [backend.start_worker() for _ in range(2)]
        for round_ in range(max(1, SCALE.half_open_links // len(workers))):
            running.append(backend.add_job(long))
            supervisor = backend.supervisor()
            gateway = supervisor.gateway
            assert isinstance(gateway, DirectGateway)
            gateway.redis = Redis.from_url(link.url, socket_timeout=1, socket_connect_timeout=1)
            beside = threading.Thread(target=supervisor.execute_next)
            beside.start()
            backend.wait_for_step(running[-1], 2)
            if round_ == 0:
                wait_for(
                    lambda: num_listening(link.url) == len(workers), what="both workers listen"
                )
            swallowed = link.swallowed
            num_links += link.fall_silent()
            jobs = [client.submit(file_id, f"{round_}-{i}").body["id"] for i in range(len(workers))]
            for job_id in jobs:
                backend.wait_for_status(job_id, JobStatus.RUNNING, seconds=MAX_DELAY_HALF_OPEN + 30)
            assert link.swallowed > swallowed
            delays += [start_delay(backend, job_id) for job_id in jobs]
            assert len({backend.attempts(job_id)[0].worker for job_id in jobs}) == len(workers), (
                "each by its own link"
            )
            for job_id in jobs:
                client.http.post(f"/v1/fine_tuning/jobs/{job_id}/cancel").raise_for_status()
                backend.wait_for_status(job_id, JobStatus.CANCELLED)
                assert backend.job(job_id).attempt == 1
            beside.join()
            gateway.redis.close()
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait(30)
    count(links=num_links, latest_start=f"{max(delays):.1f}s")
    assert num_links >= SCALE.half_open_links
    assert max(delays) <= MAX_DELAY_HALF_OPEN
    for job_id in running:
        assert_undisturbed(backend, job_id, long)


def num_listening(redis_url: str) -> int:
    """Return the number of workers that listen, each for jobs and for Celery's own commands."""
    with Redis.from_url(redis_url) as redis:
        return sum(int(client["psub"]) for client in redis.client_list()) // 2
