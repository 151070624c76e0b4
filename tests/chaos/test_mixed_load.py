"""The whole service under mixed load, while one of its processes after the other is killed."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import update

from app.base.database import Database
from app.base.storage import Storage
from app.models import JobStatus, Project
from tests.chaos.conftest import Count
from tests.chaos.invariants import check_all
from tests.chaos.scale import every_run_on, of_a_release
from tests.chaos.users import FAKE, Reader, User, has_ended
from tests.support.records import Records
from tests.support.service import KEY, Service
from tests.support.waiting import wait_for

NUM_USERS, NUM_READERS = 3, 4
LOAD_SECONDS = 3_600.0
KILL_EVERY_SECONDS = 60.0
MAX_LIVE_JOBS = 40  # about two minutes of work, left for the worker when the load ends
VICTIMS = {
    "api": "--grace",
    "worker of jobs": "gpu-",
    "worker of files": "cpu-",
    "trainer": "fake_trainer.py",
    "redis": "valkey-server",
}
ENVIRONMENT = {
    "FALQON_ADMIN_KEY": KEY,
    "FALQON_LEASE": "PT5S",
    "FALQON_HEARTBEAT": "PT1S",
    "FALQON_POLL": "PT1S",
    "FALQON_MAX_INFRA_FAILURES": "1000",
}
END_SECONDS = 300.0


@pytest.fixture
def service(
    short_tmp: Path, tmp_path: Path, database: Database, database_url: str
) -> Iterator[Service]:
    service = Service(
        short_tmp / f"mixed-{tmp_path.name[-8:]}", ENVIRONMENT | {"DATABASE_URL": database_url}
    )
    service.wait_until_up()
    with database.transaction() as session:
        session.execute(update(Project).values(max_live_jobs=MAX_LIVE_JOBS))
    yield service
    service.close()


def kill(service: Service, victim: str) -> bool:
    pids = [pid for pid in service.pids(VICTIMS[victim]) if pid != service.process.pid]
    for pid in pids[:1]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return True
    return False


@of_a_release
@every_run_on("postgres")
def test_nothing_is_lost_under_mixed_load(
    service: Service, database: Database, rng: random.Random, count: Count
) -> None:
    records = Records(database, Storage((service.folder / "objects").as_uri()))
    users = [User(service.client, random.Random(rng.random())) for _ in range(NUM_USERS)]
    readers: list[Reader] = []
    for user in users:
        user.start()
    killed: Counter[str] = Counter()
    end = time.monotonic() + LOAD_SECONDS
    kill_at = time.monotonic() + KILL_EVERY_SECONDS
    while time.monotonic() < end:
        reading = sum(reader.is_alive() for reader in readers)
        if reading < NUM_READERS and (
            candidates := [job_id for user in users for job_id in user.jobs[-NUM_READERS:]]
        ):
            readers.append(Reader(service.client, rng.choice(candidates)))
            readers[-1].start()
        if time.monotonic() > kill_at and kill(service, victim := rng.choice(list(VICTIMS))):
            killed[victim] += 1
            kill_at += KILL_EVERY_SECONDS
        time.sleep(0.1)
    for user in users:
        user.ending.set()
        user.join()
    jobs = [job_id for user in users for job_id in user.jobs]
    cancelled = {job_id for user in users for job_id in user.cancelled}
    wait_for(lambda: has_ended(service.client, records, jobs), END_SECONDS, "every job has ended")
    for reader in readers:
        reader.join(30)
        assert reader.seqs == list(range(1, records.job(reader.job_id).last_event_seq + 1)), (
            "a reader saw an event twice, or not at all"
        )
    done = sum((user.done for user in users), Counter[str]())
    readings = {
        "readers": len(readers),
        "connections": sum(reader.connections for reader in readers),
    }
    count(**done, killed=sum(killed.values()), **readings)
    assert [fault for user in users for fault in user.faults] == []
    assert killed
    service.stop()
    expected = {job_id: JobStatus(records.job(job_id).status) for job_id in jobs} | dict.fromkeys(
        cancelled, JobStatus.CANCELLED
    )
    assert set(expected.values()) <= {JobStatus.SUCCEEDED, JobStatus.CANCELLED}
    tally = check_all(records, dict.fromkeys(jobs, FAKE), expected)
    count(**done, killed=sum(killed.values()), **readings, **tally)
