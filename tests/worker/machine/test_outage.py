"""A storage that is away, refusing or silent: nothing fails, nothing is counted, and all goes on
once it is back.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from app.base.storage import Storage, StorageUnavailable, reach
from app.models import Desired, FileCheck, JobStatus
from tests.support.backend import Backend
from tests.support.checks import uncheck_files
from tests.support.fake_trainer import FakeTrainer, weights_of
from tests.support.object_store import ObjectStore
from tests.support.outage import Switch, backend_behind_a_switch
from tests.support.waiting import wait_for
from worker.attempt.supervisor import Supervisor
from worker.machine import outage
from worker.operations.file_check import FileCheckHandler
from worker.operations.handler import MAX_ATTEMPTS

QUEUED, RUNNING = 2, 1
OUTAGE_SECONDS = 2.0
FAKE = FakeTrainer(steps=60, step_seconds=0.02, checkpoint_every=20)


def slow_until(file: Path) -> FakeTrainer:
    return FAKE.model_copy(update={"step_seconds": 0.3, "run_fast": file})


def wait_for_the_result(backend: Backend, job_id: str) -> None:
    """Until it waits, trained, for the storage."""
    waits = "The storage does not answer; the trained"
    wait_for(
        lambda: any(event.message.startswith(waits) for event in backend.events(job_id)),
        seconds=60,
        what="the result waits for the storage",
    )


@pytest.fixture
def behind_switch(
    tmp_path: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Backend, Switch]]:
    """Silence is noticed after a second."""
    impatient = replace(
        reach.FOR_REQUESTS, silence=timedelta(seconds=1), retries=timedelta(seconds=0.5)
    )
    monkeypatch.setattr(reach, "FOR_REQUESTS", impatient)
    monkeypatch.setattr(outage, "MAX_PAUSE_SECONDS", 1.0)
    with backend_behind_a_switch(tmp_path, store) as both:
        yield both


@pytest.fixture
def remote_backend(behind_switch: tuple[Backend, Switch]) -> Backend:
    return behind_switch[0]


@pytest.fixture
def switch(behind_switch: tuple[Backend, Switch]) -> Switch:
    return behind_switch[1]


@contextmanager
def working(backend: Backend, num_workers: int = 1) -> Iterator[threading.Event]:
    shutting_down = threading.Event()

    def work(supervisor: Supervisor) -> None:
        while not shutting_down.is_set():
            if not supervisor.execute_next():
                shutting_down.wait(0.1)

    threads = [
        threading.Thread(target=work, args=[backend.supervisor(shutting_down)])
        for _ in range(num_workers)
    ]
    for thread in threads:
        thread.start()
    try:
        yield shutting_down
    finally:
        shutting_down.set()
        for thread in threads:
            thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("how", ["refusing", "silent"])
def test_jobs_outlive_a_storage_that_is_away(
    remote_backend: Backend, switch: Switch, tmp_path: Path, how: str
) -> None:
    backend = remote_backend
    slow_until_away = slow_until(tmp_path / "away")
    jobs = [backend.add_job(slow_until_away) for _ in range(RUNNING + QUEUED)]
    with working(backend, num_workers=2):
        backend.wait_for_step(jobs[0], 2)
        switch.away(how)
        (tmp_path / "away").touch()
        wait_for_the_result(backend, jobs[0])
        time.sleep(OUTAGE_SECONDS)
        assert not {JobStatus.SUCCEEDED, JobStatus.FAILED} & {
            backend.job(job_id).status for job_id in jobs
        }
        switch.back()
        for job_id in jobs:
            backend.wait_for_status(job_id, JobStatus.SUCCEEDED, JobStatus.FAILED, seconds=60)
    for job_id in jobs:
        job = backend.job(job_id)
        assert (job.status, job.infra_failures, job.error_code) == (JobStatus.SUCCEEDED, 0, None)
        assert backend.weights(job_id) == weights_of(FAKE.steps)
        assert {attempt.outcome for attempt in backend.attempts(job_id)} <= {
            "released",
            "succeeded",
        }
    assert backend.attempts(jobs[0])[-1].number == 1, "what was trained is not trained again"


@pytest.mark.parametrize(
    ("desired", "status"),
    [(Desired.CANCEL, JobStatus.CANCELLED), (Desired.PAUSE, JobStatus.PAUSED)],
)
def test_a_result_that_waits_for_the_storage_heeds_a_stop_request(
    remote_backend: Backend, switch: Switch, tmp_path: Path, desired: Desired, status: JobStatus
) -> None:
    backend = remote_backend
    job_id = backend.add_job(slow_until(tmp_path / "away"))
    with working(backend):
        backend.wait_for_step(job_id, 2)
        switch.away("refusing")
        (tmp_path / "away").touch()
        wait_for_the_result(backend, job_id)
        backend.set(job_id, desired=desired)
        assert backend.wait_for_status(job_id, status).infra_failures == 0


@pytest.mark.parametrize(("known_seconds", "attempts"), [(3600.0, [1, 0]), (0.0, [0, 0])])
def test_a_worker_in_a_storage_outage_claims_nothing_and_still_ends(
    remote_backend: Backend,
    switch: Switch,
    monkeypatch: pytest.MonkeyPatch,
    known_seconds: float,
    attempts: list[int],
) -> None:
    """It meets it before it takes a job, or where the storage has just answered with one."""
    monkeypatch.setattr("app.base.storage.storage.CHECKED_SECONDS", known_seconds)
    backend = remote_backend
    jobs = [backend.add_job(FAKE) for _ in range(2)]
    switch.away("refusing")
    with working(backend):
        wait_for(lambda: backend.job(jobs[0]).attempt == attempts[0], what="the worker has met it")
        time.sleep(2)
        assert [backend.job(job_id).attempt for job_id in jobs] == attempts
    switch.back()
    released = backend.job(jobs[0])
    assert (released.status, released.not_before) == (JobStatus.QUEUED, None)


def test_jobs_outlive_a_folder_that_is_not_mounted(backend: Backend, tmp_path: Path) -> None:
    folder = backend.settings.storage_folder
    assert folder is not None
    slow_until_away = slow_until(tmp_path / "elsewhere")
    jobs = [backend.add_job(slow_until_away) for _ in range(RUNNING + QUEUED)]
    with working(backend):
        backend.wait_for_step(jobs[0], 2)
        folder.rename(tmp_path / "elsewhere")
        time.sleep(FAKE.steps * FAKE.step_seconds + 1)
        assert not folder.exists()
        assert [backend.job(job_id).attempt for job_id in jobs] == [1, 0, 0]
        (tmp_path / "elsewhere").rename(folder)
        for job_id in jobs:
            job = backend.wait_for_status(job_id, JobStatus.SUCCEEDED, JobStatus.FAILED, seconds=60)
            assert (job.status, job.infra_failures) == (JobStatus.SUCCEEDED, 0)


def test_a_file_is_neither_judged_nor_counted_while_the_storage_is_away(
    remote_backend: Backend, switch: Switch
) -> None:
    backend = remote_backend
    job_id = backend.add_job(FAKE)
    backend.set(job_id, status=JobStatus.VALIDATING_FILES, recipe=None)
    uncheck_files(backend.database)
    worker = FileCheckHandler(backend.context())
    switch.away("refusing")
    looks = threading.Thread(target=lambda: [worker.poll() for _ in range(MAX_ATTEMPTS + 1)])
    looks.start()
    time.sleep(2)
    assert backend.job(job_id).status == JobStatus.VALIDATING_FILES
    switch.back()
    looks.join(60)
    assert backend.job(job_id).status == JobStatus.QUEUED
    with backend.database.read() as session:
        assert session.scalars(select(FileCheck.attempt)).all() == [1]


def test_large_objects_and_streams_say_that_the_storage_is_away(
    remote_backend: Backend, switch: Switch
) -> None:
    storage: Storage = remote_backend.storage
    storage.put("large", [b"x" * 2**20] * 9)
    switch.away("refusing")
    with pytest.raises(StorageUnavailable):
        storage.put("larger", [b"x" * 2**20] * 20)
    with pytest.raises(StorageUnavailable):
        list(storage.chunks("large"))
    with pytest.raises(StorageUnavailable):
        storage.delete("large")
