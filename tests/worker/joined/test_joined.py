"""A worker whose environment holds an address and a token, and nothing of database, Redis and
storage.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from app.models import DEFAULT_PROJECT_ID, JobStatus
from falqon_core.contract.config import Recipe
from tests.support.admin import falqon_admin
from tests.support.api import Api
from tests.support.backend import CPU, FAKE_TRAINER, Backend
from tests.support.fake_trainer import FakeTrainer, weights_of
from tests.support.forks import Fork
from worker.attempt.supervisor import Supervisor
from worker.joined.gateway import JoinedGateway

FAKE = FakeTrainer(steps=60, checkpoint_every=5)
PATIENCE = 120.0  # seconds; the machine may be busy


@pytest.fixture
def api(embedded_backend: Backend) -> Iterator[Api]:
    settings = embedded_backend.settings
    api = Api(
        settings.resolved_database_url,
        settings.data_dir,
        lease=timedelta(seconds=5),
        heartbeat=timedelta(seconds=0.3),
        poll=timedelta(seconds=0.5),
        retry_delay=timedelta(0),
    )
    yield api
    api.stop()


def create_token(backend: Backend) -> str:
    arguments = ["workers", "create", "cluster", "--project", DEFAULT_PROJECT_ID]
    return falqon_admin(backend.environment(), *arguments).stdout.strip()


def join(url: str) -> None:
    from worker.entry import joined

    sys.argv = ["joined", url]
    raise SystemExit(joined.main())


def start_worker(api: Api, token: str, folder: Path, stack: ExitStack, **more: str) -> Fork:
    environment = more | {
        "PATH": os.environ["PATH"],
        "FALQON_WORKER_TOKEN": token,
        "FALQON_DATA_DIR": str(folder),
        "FALQON_TRAINER_COMMAND": json.dumps(FAKE_TRAINER),
        "FALQON_DEVICE": "cpu",
        "FALQON_NUM_THREADS": "2",
    }
    worker = Fork(join, api.url, environment=environment, output=folder.with_suffix(".log"))
    stack.callback(worker.wait)
    stack.callback(worker.kill)
    return worker


def test_a_killed_worker_is_followed_by_another_that_ends_with_the_same_bytes(
    embedded_backend: Backend, api: Api, tmp_path: Path
) -> None:
    backend = embedded_backend
    job_id = backend.add_job(FAKE)
    token = create_token(backend)
    with ExitStack() as stack:
        faults = {"FAULT_POINTS": "after_checkpoint_row=exit"}
        first = start_worker(api, token, tmp_path / "first", stack, **faults)
        assert first.wait(PATIENCE) == 128 + signal.SIGKILL
        second = start_worker(api, token, tmp_path / "second", stack)
        backend.wait_for_status(job_id, JobStatus.SUCCEEDED, seconds=PATIENCE)
        second.terminate()
        assert second.wait(PATIENCE) == 0
    assert backend.weights(job_id) == weights_of(60)
    attempts = backend.attempts(job_id)
    assert len(attempts) > 1
    assert attempts[-1].start_step
    assert backend.job(job_id).result_file_id is not None


def test_a_success_that_is_answered_late_is_no_lost_lease(
    embedded_backend: Backend, api: Api
) -> None:
    """Meanwhile the service refuses to renew what has ended."""
    backend = embedded_backend
    gateway = JoinedGateway(api.url, create_token(backend), "late")
    refused = threading.Event()

    def delay(response: httpx.Response) -> None:
        if response.url.path.endswith("/renew") and response.status_code == httpx.codes.CONFLICT:
            refused.set()
        if response.url.path.endswith("/result"):
            assert refused.wait(PATIENCE)
            time.sleep(1.0)

    gateway.http.event_hooks = {"response": [delay]}
    supervisor = Supervisor(backend.settings, gateway, CPU, threading.Event())
    backend.add_job(FAKE)  # last: the service notifies workers of a job that waits for long
    with closing(gateway), capture_logs() as logs:
        assert supervisor.execute_next()
    assert [line["verdict"] for line in logs if line["event"] == "attempt ended"] == ["SUCCEEDED"]
    warnings = [line for line in logs if line["log_level"] != "info"]
    assert not warnings, warnings


def test_a_worker_whose_outcome_is_refused_goes_on_with_other_jobs(
    embedded_backend: Backend, api: Api
) -> None:
    """A refusal that comes again with each call once ended one worker after the other."""
    backend = embedded_backend
    refused_id = backend.add_job(FakeTrainer(steps=3))
    backend.set(refused_id, recipe=Recipe(max_steps=2).resolved(1))
    gateway = JoinedGateway(api.url, create_token(backend), "refused")
    supervisor = Supervisor(backend.settings, gateway, CPU, threading.Event())
    with closing(gateway), capture_logs() as logs:
        assert supervisor.execute_next()
        assert backend.job(refused_id).status == JobStatus.RUNNING, "until its lease has expired"
        next_id = backend.add_job(FakeTrainer(steps=3))
        assert supervisor.execute_next()
    assert backend.job(next_id).status == JobStatus.SUCCEEDED
    (line,) = (line for line in logs if line["event"] == "the service refuses the outcome")
    assert (line["status"], "more than the 2 steps" in line["reason"]) == (400, True)


def test_a_token_is_listed_until_it_is_revoked(embedded_backend: Backend) -> None:
    environment = embedded_backend.environment()
    secret = create_token(embedded_backend)
    assert secret.startswith("ft_work_")
    token_id, *described = falqon_admin(environment, "workers", "list").stdout.split()
    assert described[:2] == ["cluster", DEFAULT_PROJECT_ID]
    assert falqon_admin(environment, "workers", "revoke", token_id).exit_code == 0
    assert falqon_admin(environment, "workers", "list").stdout == ""
    assert falqon_admin(environment, "workers", "revoke", token_id).exit_code == 1
    unknown = falqon_admin(environment, "workers", "create", "x", "--project", "proj_nobody")
    assert (unknown.exit_code, "proj_nobody" in unknown.output) == (1, True)
