"""What a worker tells Prometheus of the jobs that it had."""

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import closing

import httpx
import pytest
from prometheus_client import generate_latest

from app.base.database import Database
from app.base.settings import Settings
from app.jobs import claims
from app.jobs.claims import Claim, JobFailure
from app.jobs.events import NewEvent
from app.models import JobStatus
from tests.support.backend import Backend
from tests.support.fake_trainer import FakeTrainer
from tests.support.metrics import samples, value
from tests.support.waiting import wait_for
from worker.machine import metrics


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that somebody has, as another worker of the machine may."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_worker_answers_at_the_next_free_port(embedded_backend: Backend, taken_port: int) -> None:
    backend = embedded_backend
    backend.settings = backend.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    failing, trained = backend.add_job(FakeTrainer(crash_at=7)), backend.add_job()
    backend.start_worker(FALQON_METRICS_PORT=str(taken_port))
    for job_id in (failing, trained):
        backend.wait_for_status(job_id, JobStatus.SUCCEEDED)
    log = (backend.settings.data_dir / "worker.log").read_text()
    (address,) = re.findall(r"http://127\.0\.0\.1:\d+/metrics", log)
    assert str(taken_port) not in address

    def read() -> str:
        return httpx.get(address, verify=False).text

    wait_for(lambda: value(read(), "falqon_job_changes_total", status="succeeded") == 2)
    text = read()
    assert value(text, "falqon_job_claims_total", device="cpu") == 3
    assert value(text, "falqon_attempts_lost_total", code="trainer_killed") == 1
    assert value(text, "falqon_checkpoint_upload_seconds_count") > 2
    assert value(text, "falqon_relay_backlog_events") == 0


def test_a_port_that_cannot_be_had_is_refused() -> None:
    settings = Settings(_env_file=None, metrics_port=9464, metrics_host="203.0.113.9")
    with pytest.raises(SystemExit, match=r"FALQON_METRICS_PORT: 203\.0\.113\.9 has no free port"):
        metrics.serve(settings)


def test_losses_are_counted_once_committed_under_a_code_of_ours(backend: Backend) -> None:
    backend.add_job()
    before = counts()
    with pytest.raises(ZeroDivisionError):
        claim_and_lose(backend.database, lambda: 1 / 0)
    assert counts() == before
    claim_and_lose(backend.database, lambda: None)
    added = {label: count - before.get(label, 0.0) for label, count in counts().items()}
    assert {label: count for label, count in added.items() if count} == {"other": 1, "cpu": 1}


def counts() -> dict[str, float]:
    """Return what is counted of claims and losses, by their label."""
    text = generate_latest().decode()
    names = {"falqon_job_claims_total", "falqon_attempts_lost_total"}
    return {
        dict(labels).popitem()[1]: count
        for (name, labels), count in samples(text).items()
        if name in names and count
    }


def claim_and_lose(database: Database, before_commit: Callable[[], object]) -> None:
    with database.transaction() as session:
        job = claims.claim(session, owner="w", device="cpu", num_devices=2, lease_seconds=60)
        assert job is not None
        claims.release(
            session,
            Claim(job.id, job.attempt, "w"),
            NewEvent("lost"),
            counts_as_failure=True,
            max_infra_failures=3,
            failure=JobFailure("of_another_program", "lost"),
        )
        before_commit()
