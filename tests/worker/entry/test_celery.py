"""Real worker processes under Celery."""

import itertools
import signal
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from redis import Redis

from app.base.ids import new_id
from app.base.storage import keys
from app.files import repository as files
from app.garbage import installation
from app.jobs import claims
from app.models import (
    DEFAULT_PROJECT_ID,
    File,
    FileCheck,
    FileImport,
    FileStatus,
    Job,
    JobStatus,
    OperationStatus,
)
from app.notifier.broker import KEY_PREFIX, Notifier
from app.notifier.queues import GPU_QUEUE
from tests.support.backend import Backend
from tests.support.fake_trainer import FakeTrainer, weights_of
from tests.support.source_server import SourceServer
from tests.support.valkey import Valkey
from tests.support.waiting import wait_for

LONG = FakeTrainer(steps=5000, step_seconds=0.02, checkpoint_every=10)
DRAIN_SECONDS = 60


@pytest.fixture
def notified_backend(embedded_backend: Backend, valkey: Valkey) -> Backend:
    """Its workers are notified and hardly ever poll by themselves."""
    redis_url = valkey.settings.resolved_redis_url
    embedded_backend.settings = embedded_backend.settings.model_copy(
        update={"redis_url": redis_url, "poll": timedelta(minutes=10)}
    )
    return embedded_backend


@pytest.fixture
def silent_backend(embedded_backend: Backend) -> Backend:
    """Its Redis is dead."""
    embedded_backend.settings = embedded_backend.settings.model_copy(
        update={"redis_url": "redis://127.0.0.1:1/0"}
    )
    return embedded_backend


def rescue(backend: Backend) -> list[str]:
    with backend.database.transaction() as session:
        return claims.rescue(session, max_infra_failures=3)


def test_one_notification_empties_the_queue_one_job_at_a_time(notified_backend: Backend) -> None:
    backend = notified_backend
    jobs = [backend.add_job(FakeTrainer(steps=30, step_seconds=0.02)) for _ in range(3)]
    notifier = Notifier(backend.settings)
    # What an API of an earlier version sends is dropped.
    notifier._producer.send_task("worker.tasks.look_for_job", args=["whichever"], queue=GPU_QUEUE)
    notifier.notify(Job, "whichever")
    backend.start_worker()
    for job_id in jobs:
        backend.wait_for_status(job_id, JobStatus.SUCCEEDED)
    attempts = [backend.attempts(job_id)[0] for job_id in jobs]
    for earlier, later in itertools.pairwise(attempts):
        assert earlier.ended_at <= later.created_at, "one device, one job"


def lists_of_messages(backend: Backend) -> list[bytes]:
    """Whatever the broker keeps of messages, read or not."""
    with Redis.from_url(backend.settings.resolved_redis_url) as redis:
        kept = [*redis.keys(f"{KEY_PREFIX}gpu*"), *redis.keys(f"{KEY_PREFIX}cpu*")]
        return kept + redis.hkeys(f"{KEY_PREFIX}unacked")


def test_no_message_stays_while_the_workers_are_busy(notified_backend: Backend) -> None:
    backend = notified_backend
    notifier = Notifier(backend.settings)
    notifier.notify(Job, "nobody listens yet")
    job_id = backend.add_job(LONG)
    worker = backend.start_worker()
    backend.wait_for_step(job_id, 5)
    for _ in range(50):
        notifier.notify(Job, job_id)
    wait_for(lambda: not lists_of_messages(backend), what="nothing is kept")
    assert backend.job(job_id).status == JobStatus.RUNNING
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(DRAIN_SECONDS) == 0
    assert not lists_of_messages(backend)


def test_a_message_reaches_the_idle_worker_beside_busy_ones(notified_backend: Backend) -> None:
    backend = notified_backend
    notifier = Notifier(backend.settings)
    long = backend.add_job(LONG)
    workers = [backend.start_worker() for _ in range(2)]
    backend.wait_for_step(long, 5)
    # Each listens for jobs, and for Celery's own commands.
    wait_for(lambda: num_listening(backend) == 2 * len(workers), what="both listen")
    # The first job may have been taken by any of them, at its start.
    for _ in range(3):
        job_id = backend.add_job(FakeTrainer(steps=3))
        notifier.notify(Job, job_id)
        backend.wait_for_status(job_id, JobStatus.SUCCEEDED)
    assert backend.job(long).status == JobStatus.RUNNING
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(DRAIN_SECONDS) == 0


def num_listening(backend: Backend) -> int:
    """Return the number of connections that hear messages for workers of jobs."""
    with Redis.from_url(backend.settings.resolved_redis_url) as redis:
        clients = redis.client_list()
    return sum(int(client["psub"]) for client in clients)


def test_a_file_is_checked_while_another_operation_takes_long(notified_backend: Backend) -> None:
    backend = notified_backend
    with closing(SourceServer()) as server:
        server.files = {"/slow.jsonl": b"{}" * 10_000}
        server.pause = 1.0  # between two bytes
        slow, quick = add_file(backend, b""), add_file(backend, b'{"text": "a"}\n')
        with backend.database.transaction() as session:
            session.add(
                FileImport(
                    id="import-1",
                    project_id=DEFAULT_PROJECT_ID,
                    status=OperationStatus.IN_PROGRESS,
                    file_id=slow,
                    source=f"{server.url}/slow.jsonl",
                    is_uploaded=False,
                    mapping={},
                )
            )
        worker = backend.start_worker("cpu", FALQON_WEBHOOK_NETWORKS='["127.0.0.0/8"]')
        wait_for(lambda: server.requests, what="the import has begun")
        wait_for(lambda: num_listening(backend) == 2, what="the worker listens")
        with backend.database.transaction() as session:
            files.add_check(session, session.get_one(File, quick))
        Notifier(backend.settings).notify(FileCheck, "whichever")

        def status_of(table: type[File] | type[FileImport], id_: str) -> str:
            with backend.database.read() as session:
                return session.get_one(table, id_).status

        wait_for(lambda: status_of(File, quick) == FileStatus.PROCESSED, what="the check")
        assert status_of(FileImport, "import-1") == OperationStatus.IN_PROGRESS
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(DRAIN_SECONDS) == 0


def add_file(backend: Backend, content: bytes) -> str:
    id_ = new_id("file-")
    key = keys.file_content(DEFAULT_PROJECT_ID, id_)
    stored = backend.storage.put(key, [content])
    columns = {"status": FileStatus.UPLOADED, "bytes": stored.bytes, "sha256": stored.sha256}
    with backend.database.transaction() as session:
        session.add(
            File(
                id=id_,
                project_id=DEFAULT_PROJECT_ID,
                filename="a.jsonl",
                purpose="fine-tune",
                storage_key=key,
                **columns,
            )
        )
    return id_


def test_sigterm_drains_within_seconds(notified_backend: Backend) -> None:
    backend = notified_backend
    job_id = backend.add_job(LONG)
    Notifier(backend.settings).notify(Job, job_id)
    worker = backend.start_worker()
    backend.wait_for_step(job_id, 5)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(DRAIN_SECONDS) == 0
    job = backend.job(job_id)
    assert (job.status, job.infra_failures, job.lease_owner) == (JobStatus.QUEUED, 0, None)
    assert backend.attempts(job_id)[0].outcome == "released"
    assert backend.trainers() == []
    assert backend.checkpoints(job_id)[-1].step == job.progress.step


def test_without_redis_a_job_starts_a_little_later_and_sigterm_drains_it(
    silent_backend: Backend,
) -> None:
    backend = silent_backend
    job_id = backend.add_job(LONG)
    worker = backend.start_worker()
    backend.wait_for_step(job_id, 5)
    worker.send_signal(signal.SIGTERM)
    worker.wait(DRAIN_SECONDS)
    assert backend.job(job_id).status == JobStatus.QUEUED
    assert backend.trainers() == []


def test_a_killed_worker_takes_its_trainer_along_and_another_continues(
    silent_backend: Backend,
) -> None:
    backend = silent_backend
    job_id = backend.add_job(FakeTrainer(steps=400, step_seconds=0.01))
    worker = backend.start_worker(FALQON_LEASE="PT5S")
    backend.wait_for_checkpoint(job_id)
    worker.kill()
    assert rescue(backend) == [], "the lease is still running"
    wait_for(lambda: not backend.trainers(), 20, "the trainer dies with its worker")
    wait_for(lambda: rescue(backend) == [job_id], what="the lease ends")
    assert backend.job(job_id).infra_failures == 1
    assert backend.supervisor().execute_next()
    assert backend.attempts(job_id)[1].start_step > 0
    assert backend.weights(job_id) == weights_of(400)
    assert list((backend.settings.work_dir / "attempts").glob("[!.]*")) == [], (
        "the dead worker's folder is swept"
    )


def test_a_worker_with_the_storage_of_another_claims_nothing(silent_backend: Backend) -> None:
    backend = silent_backend
    job_id = backend.add_job()
    backend.storage.replace(keys.installation(), b"inst_of_another")
    worker = backend.start_worker()
    assert worker.wait(60) == 1
    log = (backend.settings.data_dir / "worker.log").read_text()
    assert "inst_of_another" in log
    assert "run `falqon admin adopt-storage`" in log
    assert (backend.job(job_id).status, backend.attempts(job_id)) == (JobStatus.QUEUED, [])


def test_a_worker_with_an_empty_data_folder_reports_the_mismatch(
    silent_backend: Backend, tmp_path: Path
) -> None:
    """As on a machine that does not share the storage with the API."""
    url = (tmp_path / "own").as_uri()
    worker = silent_backend.start_worker("cpu", STORAGE_URL=url)
    assert worker.wait(60) == 1
    assert url in (silent_backend.settings.data_dir / "worker.log").read_text()


def test_a_worker_that_waits_for_its_database_ends_when_told_to(silent_backend: Backend) -> None:
    backend = silent_backend
    worker = backend.start_worker("cpu", DATABASE_URL="sqlite:////nowhere/falqon.db")
    log = backend.settings.data_dir / "worker.log"
    wait_for(lambda: log.exists() and installation.UNKNOWN_PAIR in log.read_text(), what="it waits")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(DRAIN_SECONDS) == 0
