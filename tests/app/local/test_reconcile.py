"""`falqon reconcile` in place of an API: what waits for one goes on, and it ends when told."""

import signal
import subprocess
import sys
from pathlib import Path

from app.base.database import now_plus
from app.jobs import claims
from app.models import JobStatus
from tests.support.backend import Backend
from tests.support.fake_trainer import FakeTrainer
from tests.support.waiting import wait_for


def start(backend: Backend, log: Path) -> "subprocess.Popen[bytes]":
    environment = backend.environment()
    command = [sys.executable, "-m", "app.cli", "reconcile"]
    with log.open("ab") as output:
        return subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, cwd=log.parent
        )


def test_a_silent_worker_loses_its_job_without_an_api(backend: Backend, tmp_path: Path) -> None:
    log = tmp_path / "reconcile.log"
    job_id = backend.add_job(FakeTrainer())
    with backend.database.transaction() as session:
        claimed = claims.claim(session, owner="w", device="cpu", num_devices=1, lease_seconds=60)
    assert claimed is not None
    backend.set(job_id, lease_expires_at=now_plus(-1))
    processes = [start(backend, log) for _ in range(2)]  # several harm nothing
    try:
        wait_for(
            lambda: backend.job(job_id).status == JobStatus.QUEUED, 120, "the job is in the queue"
        )
        assert backend.job(job_id).infra_failures == 1
        wait_for(lambda: log.read_text().count("reconciling") == 2, 120, "both work")
        for process in processes:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(60) for process in processes] == [0, 0], log.read_text()
    finally:
        for process in processes:
            process.kill()
    assert "Traceback" not in log.read_text()


def test_a_storage_of_another_database_is_refused(backend: Backend, tmp_path: Path) -> None:
    log = tmp_path / "reconcile.log"
    backend.storage.delete("installation")
    backend.storage.put("installation", [b"of another"])
    process = start(backend, log)
    assert process.wait(120) == 1
    assert "Traceback" not in log.read_text()
