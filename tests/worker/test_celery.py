"""Real worker processes under Celery."""

import itertools
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from app.jobs import claims
from app.models import JobStatus
from app.notifier.broker import Notifier
from app.storage import keys
from tests.support.house import ROOT, House
from tests.support.toy_trainer import Toy
from tests.support.valkey import Valkey
from tests.support.waiting import wait_for

LONG = Toy(steps=5000, step_seconds=0.02, checkpoint_every=10)
DRAIN_SECONDS = 10


@pytest.fixture
def rung_house(embedded_house: House, valkey: Valkey) -> House:
    """Its workers are notified and hardly ever poll by themselves."""
    redis_url = valkey.settings.resolved_redis_url
    embedded_house.settings = embedded_house.settings.model_copy(update={"redis_url": redis_url, "poll": timedelta(minutes=10)})
    return embedded_house


@pytest.fixture
def silent_house(embedded_house: House) -> House:
    """Its Redis is dead."""
    embedded_house.settings = embedded_house.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    return embedded_house


def rescue(house: House) -> list[str]:
    with house.database.transaction() as session:
        return claims.rescue(session, max_infra_failures=3)


def test_one_ring_empties_the_queue_one_job_at_a_time(rung_house: House) -> None:
    house = rung_house
    jobs = [house.add_job(Toy(steps=30, step_seconds=0.02)) for _ in range(3)]
    Notifier(house.settings).notify_job("whichever")
    house.start_worker()
    for job_id in jobs:
        house.wait_for_status(job_id, JobStatus.SUCCEEDED)
    attempts = [house.attempts(job_id)[0] for job_id in jobs]
    for earlier, later in itertools.pairwise(attempts):
        assert earlier.ended_at <= later.created_at, "one device, one job"


def test_a_dead_redis_slows_the_start_and_stops_nothing(silent_house: House) -> None:
    house = silent_house
    job_id = house.add_job()
    worker = house.start_worker()
    house.wait_for_status(job_id, JobStatus.SUCCEEDED)
    worker.send_signal(signal.SIGTERM)
    worker.wait(DRAIN_SECONDS)


def test_sigterm_drains_within_seconds(rung_house: House) -> None:
    house = rung_house
    job_id = house.add_job(LONG)
    Notifier(house.settings).notify_job(job_id)
    worker = house.start_worker()
    house.wait_for_step(job_id, 5)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(DRAIN_SECONDS) == 0
    job = house.job(job_id)
    assert (job.status, job.infra_failures) == (JobStatus.QUEUED, 0)
    assert house.trainers() == []
    assert house.checkpoints(job_id)[-1].step == job.progress["step"]


def test_sigterm_drains_what_the_poller_started(silent_house: House) -> None:
    house = silent_house
    job_id = house.add_job(LONG)
    worker = house.start_worker()
    house.wait_for_step(job_id, 5)
    worker.send_signal(signal.SIGTERM)
    worker.wait(DRAIN_SECONDS)
    assert house.job(job_id).status == JobStatus.QUEUED
    assert house.trainers() == []


def test_a_killed_worker_takes_its_trainer_along_and_another_continues(silent_house: House) -> None:
    house = silent_house
    whole = house.add_job(Toy(steps=400, step_seconds=0))
    assert house.supervisor().execute_next()
    job_id = house.add_job(Toy(steps=400, step_seconds=0.01))
    worker = house.start_worker()
    house.wait_for_checkpoint(job_id)
    worker.kill()
    wait_for(lambda: not house.trainers(), 5, "the trainer dies with its worker")
    assert rescue(house) == [], "the lease is still running"
    wait_for(lambda: rescue(house) == [job_id], 15, "the lease ends")
    assert house.job(job_id).infra_failures == 1
    assert house.supervisor().execute_next()
    assert house.attempts(job_id)[1].start_step > 0
    assert house.weights(job_id) == house.weights(whole)
    assert list((house.settings.work_dir / "attempts").glob("[!.]*")) == [], "the dead worker's folder is swept"


def test_a_ghost_writes_nothing(silent_house: House) -> None:
    house = silent_house
    job_id = house.add_job(Toy(steps=200, step_seconds=0.02, checkpoint_every=10))
    worker = house.start_worker()
    house.wait_for_checkpoint(job_id)
    frozen = [*house.trainers(), worker.pid]  # in the order in which they wake up: the worker kills its trainer
    assert len(frozen) == 2
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: rescue(house) == [job_id], 15, "the lease ends")
    assert house.supervisor().execute_next()
    winner = house.job(job_id)
    weights = house.weights(job_id)
    assert (winner.status, winner.attempt) == (JobStatus.SUCCEEDED, 2)
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: not house.trainers(), 5, "the ghost's trainer is killed")
    worker.send_signal(signal.SIGTERM)
    worker.wait(DRAIN_SECONDS)
    after = house.job(job_id)
    assert (after.status, after.attempt, after.last_event_seq) == (winner.status, 2, winner.last_event_seq)
    assert house.weights(job_id) == weights
    assert {checkpoint.attempt for checkpoint in house.checkpoints(job_id)} == {2}


def test_the_worker_imports_neither_torch_nor_fastapi() -> None:
    program = (
        "import sys, worker.celery_app, worker.tasks; print([m for m in ('torch', 'fastapi', 'starlette', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_a_worker_with_the_storage_of_another_claims_nothing(silent_house: House) -> None:
    house = silent_house
    job_id = house.add_job()
    house.storage.replace(keys.installation(), b"inst_of_another")
    worker = house.start_worker()
    assert worker.wait(30) == 1
    said = (house.settings.data_dir / "worker.log").read_text()
    assert "inst_of_another" in said
    assert "run `falqon admin adopt-storage`" in said
    assert (house.job(job_id).status, house.attempts(job_id)) == (JobStatus.QUEUED, [])


def test_a_worker_with_an_empty_folder_of_its_own_says_so(silent_house: House, tmp_path: Path) -> None:
    """As on a machine that does not share the storage with the API."""
    url = (tmp_path / "own").as_uri()
    worker = silent_house.start_worker("cpu", STORAGE_URL=url)
    assert worker.wait(30) == 1
    assert url in (silent_house.settings.data_dir / "worker.log").read_text()
