"""`falqon worker --once`: real processes, and what their exit codes say."""

import sqlite3
import sys
from contextlib import closing

import pytest
from typer.testing import CliRunner

from app.cli import app
from app.models import JobStatus
from tests.support.backend import Backend
from tests.support.fake_trainer import FakeTrainer
from tests.support.forks import Fork
from worker.entry.once import OnceExit

LONG = FakeTrainer(steps=5000, step_seconds=0.02, checkpoint_every=10)
WAIT_SECONDS = 120


def work_once(*arguments: str) -> None:
    from worker.entry import once

    sys.argv = ["once", *arguments]
    raise SystemExit(once.main())


def start(backend: Backend, wait: str = "30", *more: str, **environment: str) -> Fork:
    output = backend.settings.data_dir / "once.log"
    variables = backend.environment() | environment
    return Fork(work_once, "--wait", wait, *more, environment=variables, output=output)


def log_of(backend: Backend) -> str:
    return (backend.settings.data_dir / "once.log").read_text()


def test_worker_once_runs_one_job_and_ends(embedded_backend: Backend) -> None:
    backend = embedded_backend
    first, second = backend.add_job(FakeTrainer(user_error_at=3)), backend.add_job()
    backend.set(first, request_id="req_of_the_first")
    assert start(backend).wait(WAIT_SECONDS) == OnceExit.JOB_FAILED
    (failed,) = [line for line in log_of(backend).splitlines() if '"trainer failed"' in line]
    assert '"request_id": "req_of_the_first"' in failed
    assert (backend.job(first).status, backend.job(second).status) == (
        JobStatus.FAILED,
        JobStatus.QUEUED,
    )
    assert start(backend).wait(WAIT_SECONDS) == OnceExit.SUCCEEDED
    assert start(backend, "0.1").wait(WAIT_SECONDS) == OnceExit.NOTHING_QUEUED


def test_a_worker_that_cannot_start_is_told_from_a_failed_job(embedded_backend: Backend) -> None:
    backend = embedded_backend
    away = {"DATABASE_URL": "sqlite:////nowhere/falqon.db"}
    assert start(backend, "0.1", **away).wait(WAIT_SECONDS) == OnceExit.WORKER_FAILED
    assert "falqon check" in log_of(backend)
    prices = {"FALQON_PRICES": "/nowhere/prices.json"}
    assert start(backend, "0.1", **prices).wait(WAIT_SECONDS) == OnceExit.WORKER_FAILED


def test_a_worker_that_cannot_ask_does_not_say_that_nothing_is_queued(
    embedded_backend: Backend,
) -> None:
    backend = embedded_backend
    backend.database.dispose()
    path = backend.settings.resolved_database_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE jobs RENAME TO jobs_elsewhere")
    for more in ((), ("--exit-zero",)):
        assert start(backend, "0.1", *more).wait(WAIT_SECONDS) == OnceExit.WORKER_FAILED


def test_whatever_became_of_the_job_is_zero_where_only_zero_is_success(
    embedded_backend: Backend,
) -> None:
    backend = embedded_backend
    job_id = backend.add_job(FakeTrainer(user_error_at=3))
    assert start(backend, "30", "--exit-zero").wait(WAIT_SECONDS) == 0
    assert backend.job(job_id).status == JobStatus.FAILED
    assert '"outcome": "job_failed"' in log_of(backend)
    assert start(backend, "0.1", "--exit-zero").wait(WAIT_SECONDS) == 0


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (("--queue", "cpu", "--once"), "--queue gpu"),
        (("--queue", "gpu", "--exit-zero"), "--once"),
        (("--job", "ftjob-1", "--queue", "cpu"), "--queue gpu"),
        (("--job", "ftjob-1", "--join", "http://127.0.0.1:1"), "--job"),
        (("--job", ""), "--job"),
    ],
)
def test_options_of_a_single_job_are_refused_elsewhere(
    options: tuple[str, ...], advice: str
) -> None:
    refused = CliRunner().invoke(app, ["worker", *options])
    assert refused.exit_code == 2
    assert advice in refused.output
