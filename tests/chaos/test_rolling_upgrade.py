"""Two versions at work on one database, as in a rolling upgrade: the code before the newest
migration, and this one.
"""

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import select, update

from app.base.database import Database
from app.base.storage import Storage
from app.http.probes import PROBE_SECONDS
from app.models import Attempt, JobStatus, Project
from tests.chaos.conftest import Count
from tests.chaos.invariants import check_all
from tests.chaos.users import FAKE, Reader, User, has_ended, submit
from tests.support.fake_trainer import FakeTrainer
from tests.support.forks import ROOT
from tests.support.postgres import PostgresServer
from tests.support.records import Records
from tests.support.release import NoHistory, Release, unpack_earlier_code
from tests.support.service import KEY
from tests.support.valkey import Valkey
from tests.support.waiting import wait_for

END_SECONDS = 240.0
BOTH_QUEUES = "gpu,cpu"
ENVIRONMENT = {
    "FALQON_ADMIN_KEY": KEY,
    "FALQON_SESSION_SECRET": "of both versions: 0123456789abcdef",
    "FALQON_DEVICE": "cpu",
    "FALQON_NUM_THREADS": "1",
    "FALQON_CALIBRATE": "false",
    "FALQON_LEASE": "PT30S",
    "FALQON_HEARTBEAT": "PT0.5S",
    "FALQON_POLL": "PT1S",
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture
def database_url(postgres: PostgresServer) -> str:
    """SQLite is for one machine, which has one version."""
    return postgres.create_database("upgrade")


@pytest.fixture
def environment(tmp_path: Path, database_url: str, valkey: Valkey) -> dict[str, str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("FALQON_")}
    shared = {
        "DATABASE_URL": database_url,
        "REDIS_URL": valkey.settings.resolved_redis_url,
        "STORAGE_URL": (tmp_path / "objects").as_uri(),
    }
    return outside | ENVIRONMENT | shared


@pytest.fixture
def old(tmp_path: Path, environment: dict[str, str]) -> Iterator[Release]:
    code = tmp_path / "earlier"
    try:
        unpack_earlier_code(code)
    except NoHistory as error:
        pytest.skip(f"no earlier version to run: {error}")
    release = Release(code, tmp_path / "old", environment)
    yield release
    release.close()


@pytest.fixture
def new(tmp_path: Path, environment: dict[str, str]) -> Iterator[Release]:
    release = Release(ROOT, tmp_path / "new", environment)
    yield release
    release.close()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """For looking only: the old version migrates it, then the new one."""
    database = Database(database_url)
    yield database
    database.dispose()


def workers_of(database: Database) -> list[str]:
    """Return the worker of each attempt, by a column that the earlier schema has too."""
    with database.read() as session:
        return list(session.scalars(select(Attempt.worker)))


@pytest.fixture
def users(old: Release, new: Release, rng: random.Random) -> Iterator[list[User]]:
    """One of each version; they repeat nothing, so every refusal is seen."""
    clients = [release.client.with_options(max_retries=0) for release in (old, new)]
    users = [User(client, random.Random(rng.random())) for client in clients]
    yield users
    for user in users:
        user.ending.set()
        if user.is_alive():
            user.join()


def limit_live_jobs(database: Database, most: int | None) -> None:
    with database.transaction() as session:
        session.execute(update(Project).values(max_live_jobs=most))


class Probe(threading.Thread):
    """Reads /readyz of the old version all the time, as a load balancer does."""

    def __init__(self, release: Release) -> None:
        super().__init__(daemon=True)
        self._release = release
        self.ending = threading.Event()
        self.verdicts: set[str | None] = set()

    def run(self) -> None:
        while not self.ending.wait(0.2):
            self.verdicts.add(self._release.database_verdict())


def test_two_versions_work_side_by_side(
    old: Release, new: Release, database: Database, users: list[User], tmp_path: Path, count: Count
) -> None:
    user_of_old, user_of_new = users
    old.migrate()
    old.start_api()
    old.start_worker(BOTH_QUEUES)
    old.wait_until_up()
    limit_live_jobs(database, 3)  # or a slow machine would have ever more left to do
    user_of_old.start()
    wait_for(lambda: workers_of(database), END_SECONDS, "the old version has a job")
    probe = Probe(old)
    probe.start()

    new.migrate()
    migrated_at = time.monotonic()
    old_workers = set(workers_of(database))
    num_before = len(workers_of(database))
    wait_for(lambda: len(workers_of(database)) > num_before, END_SECONDS, "the old one goes on")
    new.start_api()
    new.start_worker(BOTH_QUEUES)
    new.wait_until_up()
    user_of_new.start()
    so_far = Counter(workers_of(database))
    wait_for(
        lambda: (
            is_shared(Counter(workers_of(database)) - so_far, old_workers)
            and time.monotonic() > migrated_at + 2 * PROBE_SECONDS
        ),
        END_SECONDS,
        "both take jobs",
    )

    for user in users:
        user.ending.set()
        user.join()
    limit_live_jobs(database, None)

    # Each worker has one of these when the old one is drained; its stream is the other version's.
    run_fast = tmp_path / "run_fast"
    endless = FakeTrainer(steps=1_000, step_seconds=0.3, run_fast=run_fast, checkpoint_every=400)
    endless_jobs = [
        submit(old.client, endless, priority=10),
        submit(new.client, endless, priority=10),
    ]
    readers = [Reader(new.client, job_id) for job_id in endless_jobs]
    for reader in readers:
        reader.start()
    records = Records(database, Storage((tmp_path / "objects").as_uri()))
    for job_id in endless_jobs:
        wait_for(partial(has_made_steps, records, job_id), END_SECONDS, "the first steps")
    old.drain_workers()
    probe.ending.set()
    probe.join()
    old.stop_api()
    run_fast.touch()

    jobs = [job_id for user in users for job_id in user.jobs]
    wait_for(
        lambda: has_ended(new.client, records, [*jobs, *endless_jobs]),
        END_SECONDS,
        "every job ends",
    )
    for reader in readers:
        reader.join(30)
        assert reader.seqs == list(range(1, records.job(reader.job_id).last_event_seq + 1))
    new.drain_workers()
    new.stop_api()

    assert [fault for user in users for fault in user.faults] == []
    done = sum((user.done for user in users), Counter[str]())
    assert done["unavailable"] == 0
    assert probe.verdicts == {"ok"}, "the old API is in use on the newer schema"
    outcomes = {attempt.outcome for job_id in endless_jobs for attempt in records.attempts(job_id)}
    assert outcomes == {"released", "succeeded"}, "the new worker took over the old one's job"
    cancelled = {job_id for user in users for job_id in user.cancelled}
    expected = {job_id: JobStatus(records.job(job_id).status) for job_id in jobs}
    expected |= dict.fromkeys(cancelled, JobStatus.CANCELLED)
    assert set(expected.values()) <= {JobStatus.SUCCEEDED, JobStatus.CANCELLED}
    fakes = dict.fromkeys(jobs, FAKE) | dict.fromkeys(endless_jobs, endless)
    tally = check_all(records, fakes, expected)
    count(**done, **tally)


def has_made_steps(records: Records, job_id: str) -> bool:
    progress = records.job(job_id).progress
    return progress is not None and progress.step > 1


def is_shared(attempts: Counter[str], old_workers: set[str]) -> bool:
    return bool(attempts.keys() & old_workers) and bool(attempts.keys() - old_workers)
