import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import select, update

from app.models import File, FileCheck, FileStatus, JobStatus, OperationStatus
from tests.support.backend import Backend, processes
from tests.support.checks import end_leases, uncheck_files
from tests.support.waiting import wait_for
from worker.operations import check_process
from worker.operations.file_check import FileCheckHandler
from worker.operations.handler import MAX_ATTEMPTS


def file_of(backend: Backend, job_id: str) -> File:
    with backend.database.read() as session:
        return session.get_one(File, backend.job(job_id).training_file_id)


def check_of(backend: Backend, job_id: str) -> FileCheck:
    file_id = backend.job(job_id).training_file_id
    with backend.database.read() as session:
        return session.scalars(select(FileCheck).where(FileCheck.file_id == file_id)).one()


def checker_process() -> int | None:
    """Return the one that is a child of this process."""
    for process in processes("falqon_core.records.checker"):
        with suppress(OSError):  # One of another process of tests may have ended.
            parent = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1]
            if int(parent) == os.getpid():
                return process
    return None


def waiting_job(backend: Backend) -> str:
    job_id = backend.add_job()
    backend.set(job_id, status=JobStatus.VALIDATING_FILES, recipe=None)
    return job_id


def write_records(backend: Backend, job_id: str, record: bytes, num_chunks: int) -> None:
    """Put other bytes in the place of a job's training file."""
    key = file_of(backend, job_id).storage_key
    backend.storage.delete(key)
    stored = backend.storage.put(key, (record for _ in range(num_chunks)))
    with backend.database.transaction() as session:
        session.execute(update(File).where(File.storage_key == key).values(bytes=stored.bytes))


@pytest.mark.both_databases
def test_files_that_nobody_announced_are_checked_and_their_jobs_queued(backend: Backend) -> None:
    good, bad = waiting_job(backend), waiting_job(backend)
    uncheck_files(backend.database)
    backend.damage(file_of(backend, bad).storage_key)
    FileCheckHandler(backend.context()).poll()
    assert (file_of(backend, good).status, backend.job(good).status) == (
        FileStatus.PROCESSED,
        JobStatus.QUEUED,
    )
    assert backend.job(good).recipe is not None
    failed = backend.job(bad)
    assert (file_of(backend, bad).status, failed.status, failed.error_param) == (
        FileStatus.ERROR,
        JobStatus.FAILED,
        "training_file",
    )


@pytest.mark.both_databases
def test_two_workers_never_check_the_same_file(backend: Backend) -> None:
    job_id = waiting_job(backend)
    write_records(backend, job_id, b'{"text":"a"}\n' * 80_000, 2)
    uncheck_files(backend.database)
    first = threading.Thread(target=FileCheckHandler(backend.context()).poll)
    first.start()
    wait_for(lambda: check_of(backend, job_id).lease_expires_at, what="the first has claimed it")
    FileCheckHandler(backend.context()).poll()
    first.join()
    check = check_of(backend, job_id)
    assert (check.status, check.attempt) == (OperationStatus.COMPLETED, 1)
    assert backend.job(job_id).status == JobStatus.QUEUED


@pytest.mark.both_databases
def test_a_file_that_kills_its_workers_is_given_up_and_its_job_fails(backend: Backend) -> None:
    job_id = waiting_job(backend)
    uncheck_files(backend.database)
    with backend.database.transaction() as session:
        session.execute(update(FileCheck).values(attempt=MAX_ATTEMPTS))
    FileCheckHandler(backend.context()).poll()
    check, file, job = check_of(backend, job_id), file_of(backend, job_id), backend.job(job_id)
    assert (check.status, check.error_code) == (OperationStatus.FAILED, "file_check_failed")
    assert file.status == FileStatus.ERROR
    assert "3 workers have not come to its end" in str(file.status_details)
    assert (job.status, job.error_code, job.error_param) == (
        JobStatus.FAILED,
        "invalid_training_file",
        "training_file",
    )


def test_a_check_that_dies_is_tried_again_and_keeps_no_other_waiting(backend: Backend) -> None:
    deadly, good = waiting_job(backend), waiting_job(backend)
    write_records(backend, deadly, b'{"text":"a"}\n' * 80_000, 100)
    uncheck_files(backend.database)
    worker = threading.Thread(target=FileCheckHandler(backend.context()).poll)
    worker.start()
    os.kill(wait_for(checker_process, what="the process that checks"), signal.SIGKILL)
    worker.join()
    check = check_of(backend, deadly)
    assert (check.status, check.attempt) == (OperationStatus.IN_PROGRESS, 1)
    assert file_of(backend, deadly).status == FileStatus.UPLOADED
    assert file_of(backend, good).status == FileStatus.PROCESSED


def test_a_worker_that_ends_releases_its_check(backend: Backend) -> None:
    job_id = waiting_job(backend)
    write_records(backend, job_id, b'{"text":"a"}\n' * 80_000, 100)
    uncheck_files(backend.database)
    shutting_down = threading.Event()
    worker = threading.Thread(target=FileCheckHandler(backend.context(shutting_down)).poll)
    worker.start()
    wait_for(lambda: check_of(backend, job_id).lease_expires_at, what="it has begun")
    shutting_down.set()
    worker.join(60)
    check = check_of(backend, job_id)
    assert (check.status, check.attempt, check.lease_expires_at) == (
        OperationStatus.IN_PROGRESS,
        0,
        None,
    )


def test_a_check_that_exceeds_its_deadline_ends_with_a_reason_and_the_next_follows(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, good = backend.add_job(), backend.add_job()
    write_records(backend, slow, b'{"text":"a"}\n' * 80_000, 30)  # ten seconds of work
    uncheck_files(backend.database)
    monkeypatch.setattr(check_process, "BASE_SECONDS", 1)
    monkeypatch.setattr(check_process, "BYTES_PER_SECOND", 10**9)
    started = time.monotonic()
    FileCheckHandler(backend.context()).poll()
    assert time.monotonic() - started < 20
    refused = file_of(backend, slow)
    assert refused.status == FileStatus.ERROR
    assert "was ended after 1 seconds, the limit for 31200000 bytes; split the file" in str(
        refused.status_details
    )
    assert file_of(backend, good).status == FileStatus.PROCESSED


def test_a_file_whose_bytes_are_missing_fails_after_a_few_attempts(backend: Backend) -> None:
    job_id, good = waiting_job(backend), backend.add_job()
    uncheck_files(backend.database)
    backend.storage.delete(file_of(backend, job_id).storage_key)
    worker = FileCheckHandler(backend.context())
    for _ in range(MAX_ATTEMPTS):
        assert (file_of(backend, job_id).status, backend.job(job_id).status) == (
            FileStatus.UPLOADED,
            JobStatus.VALIDATING_FILES,
        )
        worker.poll()
        assert file_of(backend, good).status == FileStatus.PROCESSED
        end_leases(backend.database)
    file = file_of(backend, job_id)
    job = backend.job(job_id)
    assert (file.status, job.status, job.error_code, job.error_param) == (
        FileStatus.ERROR,
        JobStatus.FAILED,
        "bytes_missing",
        "training_file",
    )
    assert "not in the storage" in (file.status_details or "")
