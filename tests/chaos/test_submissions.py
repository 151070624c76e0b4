"""Whatever dies under a submission: each Idempotency-Key ends as one job, and what was acknowledged
is there.
"""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from app.base.database import Database
from app.models import JobStatus
from tests.chaos.api_process import ApiProcess
from tests.chaos.conftest import Count
from tests.chaos.scale import SCALE, every_run_on
from tests.chaos.submitters import Client, Operation, Submitters, judge, lasting
from tests.support.backend import Backend
from tests.support.fake_trainer import FakeTrainer, weights_of
from tests.support.postgres import PostgresServer
from tests.support.schema import migrate_database

NUM_CLIENTS = 4
POINTS = ("before_submit_commit", "after_submit_commit", "after_notify")
KILLED = -9
EXITED = 137
RECOVERY_SECONDS = 5.0


@pytest.fixture
def api(backend: Backend) -> Iterator[ApiProcess]:
    api = ApiProcess(backend)
    yield api
    api.close()


@pytest.fixture
def clients(backend: Backend, api: ApiProcess) -> Iterator[list[Client]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Client(backend, api.url)) for _ in range(NUM_CLIENTS)]


@every_run_on("sqlite")
def test_an_api_that_is_killed_again_and_again(
    backend: Backend,
    api: ApiProcess,
    clients: list[Client],
    tmp_path: Path,
    seed: int,
    count: Count,
) -> None:
    submitters = Submitters(clients, clients[0].upload(FakeTrainer()), pause=0.05, seed=seed)
    chance = Random(seed)
    faults = [*POINTS, *[""] * SCALE.api_kills]
    chance.shuffle(faults)
    with submitters.busy():
        for number, point in enumerate(faults):
            submitters.wait_for_more()
            time.sleep(chance.uniform(0, 0.2))
            api.kill()
            assert api.process.poll() == KILLED
            if point:
                marks = tmp_path / f"marks{number}"
                api.start(
                    {
                        "FAULT_POINTS": f"{point}=exit*{chance.randint(1, 5)}",
                        "FAULT_MARKS": str(marks),
                    }
                )
                assert (api.process.wait(30), (marks / point).exists()) == (EXITED, True), point
            api.start()
    history = submitters.history
    unanswered = {operation.key for operation in history if operation.status is None}
    count(
        kills=len(faults),
        points=len(POINTS),
        requests=len(history),
        jobs=len({o.key for o in history}),
        unanswered=len(unanswered),
    )
    assert unanswered
    assert {operation.status for operation in history} == {200, None}, "an API that lives answers"
    judge(backend, history)
    answers = {operation.key: operation for operation in history if operation.acknowledged}
    for key in sorted(unanswered | set(chance.sample(sorted(answers), min(50, len(answers))))):
        assert lasting(clients[0].submit(submitters.file_id, key).body) == lasting(
            answers[key].body
        ), "asked once more"
    judge(backend, history)


class Outage(NamedTuple):
    began_at: float
    ended_at: float

    def explains(self, refused: Operation) -> bool:
        return self.began_at < refused.ended_at < self.ended_at + RECOVERY_SECONDS

    def recovery_seconds(self, history: Sequence[Operation]) -> float:
        """From the moment when the database takes connections to the first job that is
        acknowledged.
        """
        return (
            min(o.ended_at for o in history if o.acknowledged and o.ended_at > self.ended_at)
            - self.ended_at
        )


@pytest.fixture
def durable(short_tmp: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(short_tmp / "durable", durable=True)
    yield server
    server.stop(signal.SIGQUIT)


@pytest.fixture
def durable_backend(tmp_path: Path, durable: PostgresServer) -> Iterator[Backend]:
    url = durable.create_database("chaos")
    database = Database(url)
    migrate_database(database)
    backend = Backend(tmp_path / "data", database, url)
    # A redis that is not there, a lease that outlasts every outage.
    backend.settings = backend.settings.model_copy(
        update={"redis_url": "redis://127.0.0.1:1/0", "lease": timedelta(seconds=60)}
    )
    yield backend
    backend.close()
    database.dispose()


def test_a_postgres_that_crashes_under_writes(
    durable: PostgresServer, durable_backend: Backend, tmp_path: Path, seed: int, count: Count
) -> None:
    backend = durable_backend
    chance = Random(seed)
    run_fast = tmp_path / "run_fast"
    fake = FakeTrainer(
        steps=2000,
        step_seconds=0.05 * max(1, SCALE.postgres_restarts / 5),
        run_fast=run_fast,
        checkpoint_every=100,
    )
    trained = [backend.add_job(fake) for _ in range(2)]
    workers = [backend.start_worker() for _ in trained]
    with ExitStack() as stack:
        api = ApiProcess(backend)
        stack.callback(api.close)
        clients = [stack.enter_context(Client(backend, api.url)) for _ in range(NUM_CLIENTS)]
        submitters = Submitters(clients, clients[0].upload(FakeTrainer()), pause=0.4, seed=seed)
        for job_id in trained:
            backend.wait_for_step(job_id, 5)
        outages: list[Outage] = []
        with submitters.busy():
            for seconds in (SCALE.postgres_outage_seconds, *[0.0] * SCALE.postgres_restarts):
                submitters.wait_for_more()
                time.sleep(chance.uniform(0.5, 1))
                began_at = time.monotonic()
                durable.stop(signal.SIGQUIT)
                submitters.wait_for_refusal()
                time.sleep(seconds)
                durable.start()
                outages.append(Outage(began_at, time.monotonic()))
            submitters.wait_for_more()
        assert [backend.job(job_id).status for job_id in trained] == [JobStatus.RUNNING] * len(
            trained
        )
        run_fast.touch()
        for job_id in trained:
            backend.wait_for_status(job_id, JobStatus.SUCCEEDED)
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait(30)
    history = submitters.history
    refused = [operation for operation in history if operation.status == 503]
    slowest = max(outage.recovery_seconds(history) for outage in outages)
    count(
        restarts=len(outages),
        requests=len(history),
        jobs=len({operation.key for operation in history}),
        refused=len(refused),
        slowest_recovery=f"{slowest:.2f}s",
    )
    assert {operation.status for operation in history} == {200, 503}
    assert all(int(operation.retry_after or 0) > 0 for operation in refused)
    assert slowest <= RECOVERY_SECONDS
    assert all(any(outage.explains(operation) for outage in outages) for operation in refused)
    judge(backend, history)
    for job_id in trained:
        assert (backend.job(job_id).attempt, backend.weights(job_id)) == (1, weights_of(fake.steps))
        assert [event.seq for event in backend.events(job_id)] == list(
            range(1, backend.job(job_id).last_event_seq + 1)
        )
        steps = [
            event.data["step"]
            for event in backend.events(job_id)
            if event.type == "metrics" and "train_loss" in (event.data or {})
        ]
        assert steps == list(range(1, fake.steps + 1)), (
            "what was spooled meanwhile, in its order and once"
        )
