import threading
import time

import pytest
from sqlalchemy import update

from app.files import check_process
from app.models import File, FileStatus, JobStatus
from app.notifier.broker import Notifier
from tests.support.house import House
from worker.workers import MISSING_TRIES, CpuWorker


def test_files_that_nobody_announced_are_checked_and_their_jobs_queued(house: House) -> None:
    good, bad = house.add_job(), house.add_job()
    for job_id in (good, bad):
        house.set(job_id, status=JobStatus.VALIDATING_FILES, recipe=None)
    with house.database.transaction() as session:
        session.execute(update(File).values(status=FileStatus.UPLOADED))
    house.damage(file_of(house, bad).storage_key)
    worker = CpuWorker(house.settings, house.database, house.storage, Notifier(house.settings), threading.Event())
    worker.poll()
    assert (file_of(house, good).status, house.job(good).status) == (FileStatus.PROCESSED, JobStatus.QUEUED)
    assert house.job(good).recipe is not None
    failed = house.job(bad)
    assert (file_of(house, bad).status, failed.status, failed.error_param) == (FileStatus.ERROR, JobStatus.FAILED, "training_file")


def test_one_file_that_cannot_be_read_keeps_no_other_waiting(house: House) -> None:
    lost, good = house.add_job(), house.add_job()
    with house.database.transaction() as session:
        session.execute(update(File).values(status=FileStatus.UPLOADED))
    house.storage.delete(file_of(house, lost).storage_key)
    CpuWorker(house.settings, house.database, house.storage, Notifier(house.settings), threading.Event()).poll()
    assert file_of(house, lost).status == FileStatus.UPLOADED
    assert file_of(house, good).status == FileStatus.PROCESSED


def test_a_check_that_exceeds_its_deadline_ends_with_a_reason_and_the_next_follows(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, good = house.add_job(), house.add_job()
    with house.database.transaction() as session:
        session.execute(update(File).values(status=FileStatus.UPLOADED))
    key = file_of(house, slow).storage_key
    house.storage.delete(key)
    house.storage.put(key, (b'{"text":"a"}\n' * 80_000 for _ in range(100)))  # half a minute of work
    with house.database.transaction() as session:
        session.execute(update(File).where(File.storage_key == key).values(bytes=104_000_000))
    monkeypatch.setattr(check_process, "BASE_SECONDS", 1)
    monkeypatch.setattr(check_process, "BYTES_PER_SECOND", 10**9)
    started = time.monotonic()
    CpuWorker(house.settings, house.database, house.storage, Notifier(house.settings), threading.Event()).poll()
    assert time.monotonic() - started < 20
    refused = file_of(house, slow)
    assert refused.status == FileStatus.ERROR
    assert "was ended after 1 seconds, the limit for 104000000 bytes; split the file" in str(refused.status_details)
    assert file_of(house, good).status == FileStatus.PROCESSED


def test_a_file_whose_bytes_are_missing_fails_after_a_few_tries(house: House) -> None:
    job_id = house.add_job()
    house.set(job_id, status=JobStatus.VALIDATING_FILES, recipe=None)
    with house.database.transaction() as session:
        session.execute(update(File).values(status=FileStatus.UPLOADED))
    house.storage.delete(file_of(house, job_id).storage_key)
    worker = CpuWorker(house.settings, house.database, house.storage, Notifier(house.settings), threading.Event())
    for _ in range(MISSING_TRIES):
        assert (file_of(house, job_id).status, house.job(job_id).status) == (FileStatus.UPLOADED, JobStatus.VALIDATING_FILES)
        worker.poll()
    file, job = file_of(house, job_id), house.job(job_id)
    assert (file.status, job.status, job.error_code, job.error_param) == (
        FileStatus.ERROR, JobStatus.FAILED, "bytes_missing", "training_file",
    )  # fmt: skip
    assert "not in the storage" in (file.status_details or "")


def file_of(house: House, job_id: str) -> File:
    with house.database.read() as session:
        return session.get_one(File, house.job(job_id).training_file_id)
