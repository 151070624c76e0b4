"""A storage that is away, refusing or silent: nothing fails, nothing is counted, and all goes on once it is back."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from app.models import Desired, File, FileStatus, JobStatus
from app.notifier.broker import Notifier
from app.storage import Storage, StorageAway, reach
from tests.support.house import House
from tests.support.object_store import ObjectStore
from tests.support.outage import Switch, house_behind_a_switch
from tests.support.toy_trainer import Toy, weights_of
from tests.support.waiting import wait_for
from worker import outage
from worker.attempt.supervisor import Supervisor
from worker.workers import MISSING_TRIES, CpuWorker

QUEUED, RUNNING = 2, 1
OUTAGE_SECONDS = 4.0
TOY = Toy(steps=60, step_seconds=0.02, checkpoint_every=20)


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    store = ObjectStore()
    yield store
    store.close()


@pytest.fixture
def behind_switch(tmp_path: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[House, Switch]]:
    """Silence is noticed after a second."""
    impatient = reach.FOR_REQUESTS._replace(silence=timedelta(seconds=1), retries=timedelta(seconds=0.5))
    monkeypatch.setattr(reach, "FOR_REQUESTS", impatient)
    monkeypatch.setattr(outage, "MAX_PAUSE_SECONDS", 1.0)
    with house_behind_a_switch(tmp_path, store) as both:
        yield both


@pytest.fixture
def remote_house(behind_switch: tuple[House, Switch]) -> House:
    return behind_switch[0]


@pytest.fixture
def switch(behind_switch: tuple[House, Switch]) -> Switch:
    return behind_switch[1]


@contextmanager
def working(house: House, num_workers: int = 1) -> Iterator[threading.Event]:
    drain = threading.Event()

    def work(supervisor: Supervisor) -> None:
        while not drain.is_set():
            if not supervisor.execute_next():
                drain.wait(0.1)

    threads = [threading.Thread(target=work, args=[house.supervisor(drain)]) for _ in range(num_workers)]
    for thread in threads:
        thread.start()
    try:
        yield drain
    finally:
        drain.set()
        for thread in threads:
            thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("how", ["refusing", "silent"])
def test_jobs_outlive_a_storage_that_is_away(remote_house: House, switch: Switch, how: str) -> None:
    house = remote_house
    jobs = [house.add_job(TOY) for _ in range(RUNNING + QUEUED)]
    with working(house, num_workers=2):
        house.wait_for_step(jobs[0], 2)
        switch.away(how)
        time.sleep(OUTAGE_SECONDS)
        assert not {JobStatus.SUCCEEDED, JobStatus.FAILED} & {house.job(job_id).status for job_id in jobs}
        switch.back()
        for job_id in jobs:
            house.wait_for_status(job_id, JobStatus.SUCCEEDED, JobStatus.FAILED, seconds=60)
    for job_id in jobs:
        job = house.job(job_id)
        assert (job.status, job.infra_failures, job.error_code) == (JobStatus.SUCCEEDED, 0, None)
        assert house.weights(job_id) == weights_of(TOY.steps)
        assert {attempt.outcome for attempt in house.attempts(job_id)} <= {"released", "succeeded"}
    assert house.attempts(jobs[0])[-1].number == 1, "what was trained is not trained again"
    assert any(event.message.startswith("The storage does not answer; the trained") for event in house.events(jobs[0]))


@pytest.mark.parametrize(("wish", "status"), [(Desired.CANCEL, JobStatus.CANCELLED), (Desired.PAUSE, JobStatus.PAUSED)])
def test_a_result_that_waits_for_the_storage_heeds_a_wish(remote_house: House, switch: Switch, wish: Desired, status: JobStatus) -> None:
    house = remote_house
    job_id = house.add_job(TOY)
    with working(house):
        house.wait_for_step(job_id, 2)
        switch.away("refusing")
        waits = "The storage does not answer"
        wait_for(lambda: any(event.message.startswith(waits) for event in house.events(job_id)), what="the result waits")
        house.set(job_id, desired=wish)
        assert house.wait_for_status(job_id, status).infra_failures == 0


def test_a_worker_that_met_it_claims_nothing_and_still_ends(remote_house: House, switch: Switch) -> None:
    house = remote_house
    jobs = [house.add_job(TOY) for _ in range(2)]
    switch.away("refusing")
    with working(house):
        wait_for(lambda: house.job(jobs[0]).attempt == 1, what="one worker has met it")
        time.sleep(2)
        assert [house.job(job_id).attempt for job_id in jobs] == [1, 0]
    switch.back()
    released = house.job(jobs[0])
    assert (released.status, released.not_before) == (JobStatus.QUEUED, None)


def test_a_file_is_neither_judged_nor_counted_while_the_storage_is_away(remote_house: House, switch: Switch) -> None:
    house = remote_house
    job_id = house.add_job(TOY)
    house.set(job_id, status=JobStatus.VALIDATING_FILES, recipe=None)
    with house.database.transaction() as session:
        session.execute(update(File).values(status=FileStatus.UPLOADED))
    worker = CpuWorker(house.settings, house.database, house.storage, Notifier(house.settings), threading.Event())
    switch.away("refusing")
    looks = threading.Thread(target=lambda: [worker.poll() for _ in range(MISSING_TRIES + 1)])
    looks.start()
    time.sleep(2)
    assert house.job(job_id).status == JobStatus.VALIDATING_FILES
    switch.back()
    looks.join(20)
    assert house.job(job_id).status == JobStatus.QUEUED


def test_large_objects_and_streams_say_that_the_storage_is_away(remote_house: House, switch: Switch) -> None:
    storage: Storage = remote_house.storage
    storage.put("large", [b"x" * 2**20] * 9)
    switch.away("refusing")
    with pytest.raises(StorageAway):
        storage.put("larger", [b"x" * 2**20] * 20)
    with pytest.raises(StorageAway):
        list(storage.chunks("large"))
    with pytest.raises(StorageAway):
        storage.delete("large")
