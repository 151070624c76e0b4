"""`falqon worker --once`: real processes, and what their exit codes say."""

import signal
import sys
from datetime import timedelta

from typer.testing import CliRunner

from app.cli import app
from app.models import JobStatus
from tests.support.backend import Backend
from tests.support.fake_trainer import FakeTrainer
from tests.support.forks import Fork
from tests.support.waiting import wait_for
from worker.once import OnceExit

LONG = FakeTrainer(steps=5000, step_seconds=0.02, checkpoint_every=10)
WAIT_SECONDS = 120


def work_once(wait: str) -> None:
    from worker import once

    sys.argv = ["once", "--wait", wait]
    raise SystemExit(once.main())


def start(backend: Backend, wait: str = "30") -> Fork:
    output = backend.settings.data_dir / "once.log"
    return Fork(work_once, wait, environment=backend.environment(), output=output)


def test_one_job_and_then_the_end(embedded_backend: Backend) -> None:
    backend = embedded_backend
    first, second = backend.add_job(FakeTrainer(user_error_at=3)), backend.add_job()
    backend.set(first, request_id="req_of_the_first")
    assert start(backend).wait(WAIT_SECONDS) == OnceExit.FAILED
    log = (backend.settings.data_dir / "once.log").read_text().splitlines()
    (failed,) = [line for line in log if '"trainer failed"' in line]
    assert '"request_id": "req_of_the_first"' in failed
    assert (backend.job(first).status, backend.job(second).status) == (
        JobStatus.FAILED,
        JobStatus.QUEUED,
    )
    assert start(backend).wait(WAIT_SECONDS) == OnceExit.SUCCEEDED
    assert start(backend, "0.1").wait(WAIT_SECONDS) == OnceExit.NOTHING_QUEUED


def test_sigterm_stores_a_checkpoint_and_says_that_the_job_waits(embedded_backend: Backend) -> None:
    backend = embedded_backend
    grace = {"stop_grace": timedelta(seconds=30)}
    backend.settings = backend.settings.model_copy(update=grace)
    job_id = backend.add_job(LONG)
    worker = start(backend)
    wait_for(lambda: backend.checkpoints(job_id), WAIT_SECONDS, "a checkpoint")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(WAIT_SECONDS) == OnceExit.REQUEUED
    job = backend.job(job_id)
    assert (job.status, job.infra_failures) == (JobStatus.QUEUED, 0)
    assert backend.checkpoints(job_id)[-1].step == job.progress.step


def test_workers_of_files_have_no_single_job() -> None:
    refused = CliRunner().invoke(app, ["worker", "--queue", "cpu", "--once"])
    assert refused.exit_code == 2
    assert "--queue gpu" in refused.output
