"""What the database says of the installation, on both databases."""

from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from redis import Redis

from app.base.database import Database, now
from app.http.probes import HealthMonitor
from app.inference import repository as engines
from app.jobs import claims
from app.metrics import collector
from app.metrics.collector import InstallationCollector
from app.models import Engine, EngineState, Event, FileCheck, JobStatus
from app.operations import claims as operations
from app.workers import service as workers
from tests.support.backend import BASE_MODEL, Backend
from tests.support.checks import uncheck_files
from tests.support.metrics import samples, value


def registry_of(backend: Backend) -> CollectorRegistry:
    redis = Redis.from_url("redis://127.0.0.1:1/0")
    monitor = HealthMonitor(backend.database, backend.storage, backend.storage, redis)
    registry = CollectorRegistry()
    registry.register(InstallationCollector(backend.database, backend.settings, monitor))
    return registry


def scrape(backend: Backend) -> str:
    return generate_latest(registry_of(backend)).decode()


def test_an_installation_without_jobs_says_zero_where_an_autoscaler_looks(backend: Backend) -> None:
    text = scrape(backend)
    assert samples(text)["falqon_queue_jobs", (("device", "any"), ("num_devices", "1"))] == 0
    assert value(text, "falqon_queue_age_seconds") == 0
    assert value(text, "falqon_lease_age_seconds") == 0


def test_jobs_are_counted_by_status_device_and_number_of_devices(backend: Backend) -> None:
    jobs = [backend.add_job() for _ in range(6)]
    with backend.database.transaction() as session:
        claims.claim(session, owner="w", device="NVIDIA L4", num_devices=1, lease_seconds=60)
    backend.set(jobs[1], num_gpus=4)
    backend.set(jobs[2], status=JobStatus.PAUSED)
    backend.set(jobs[3], status=JobStatus.SUCCEEDED)
    backend.set(jobs[4], desired="pause")
    text = scrape(backend)
    of_one = {"device": "any", "num_devices": "1"}
    assert value(text, "falqon_queue_jobs", **of_one) == 1
    assert value(text, "falqon_queue_jobs", device="any", num_devices="4") == 1
    assert value(text, "falqon_jobs", status="queued", **of_one) == 1
    assert value(text, "falqon_jobs", status="paused", **of_one) == 1
    running = {"status": "running", "device": "NVIDIA L4", "num_devices": "1"}
    assert value(text, "falqon_jobs", **running) == 1
    assert not any(("status", "succeeded") in labels for _, labels in samples(text))


def test_a_waiting_job_counts_under_the_device_that_it_names(backend: Backend) -> None:
    queued, paused, _ = (backend.add_job() for _ in range(3))
    backend.set(queued, gpu="h100", num_gpus=2)
    backend.set(paused, gpu="a100", status=JobStatus.PAUSED)
    text = scrape(backend)
    assert value(text, "falqon_queue_jobs", device="h100", num_devices="2") == 1
    assert value(text, "falqon_queue_jobs", device="any", num_devices="1") == 1
    named = {"status": "paused", "device": "a100", "num_devices": "1"}
    assert value(text, "falqon_jobs", **named) == 1


def test_a_requeued_job_waits_since_then(backend: Backend) -> None:
    new, old, requeued = (backend.add_job() for _ in range(3))
    with backend.database.transaction() as session:
        moment = now(session)
        for job_id, minutes in ((new, 1), (old, 5), (requeued, 2)):
            created_at = moment - timedelta(minutes=minutes)
            event = {"level": "info", "type": "message", "message": "", "attempt": 0}
            session.add(Event(job_id=job_id, seq=1, created_at=created_at, **event))
    for job_id in (new, old, requeued):
        backend.set(job_id, last_event_seq=1, created_at=moment - timedelta(days=3))
    assert value(scrape(backend), "falqon_queue_age_seconds") == pytest.approx(300, abs=60)


def test_a_silent_worker_shows_in_the_age_of_its_lease(backend: Backend) -> None:
    backend.add_job()
    with backend.database.transaction() as session:
        workers.mark_seen(session, "host-1", "cpu", 2)
        workers.mark_seen(session, "host-2", "cpu", 2)
        job = claims.claim(session, owner="host-1", device="cpu", num_devices=2, lease_seconds=3600)
        assert job is not None
        expires_at = now(session) + backend.settings.lease - timedelta(minutes=10)
    text = scrape(backend)
    assert value(text, "falqon_workers", device="cpu", state="busy") == 1
    assert value(text, "falqon_workers", device="cpu", state="idle") == 1
    backend.set(job.id, lease_expires_at=expires_at)
    assert value(scrape(backend), "falqon_lease_age_seconds") == pytest.approx(600, abs=60)


def test_operations_that_wait_for_workers_are_counted(backend: Backend) -> None:
    for _ in range(3):
        backend.add_job()
    uncheck_files(backend.database)
    with backend.database.transaction() as session:
        operations.claim(session, FileCheck, 60)
    text = scrape(backend)
    assert value(text, "falqon_queue_operations", kind="file_checks") == 2
    assert ("falqon_queue_operations", (("kind", "exports"),)) in samples(text)


def test_engines_are_counted_with_what_they_do(backend: Backend) -> None:
    with backend.database.transaction() as session:
        ready = {"state": EngineState.READY, "num_requests": 3, "tokens_per_second": 41.5}
        session.add(Engine(model_id=BASE_MODEL, used_at=now(session), **ready))
    text = scrape(backend)
    assert value(text, "falqon_engines", state="ready") == 1
    assert value(text, "falqon_engines", state="loading") == 0
    assert value(text, "falqon_engine_requests") == 3
    assert value(text, "falqon_engine_tokens_per_second") == 41.5


def test_a_model_that_waits_after_its_worker_was_lost_is_counted(backend: Backend) -> None:
    with backend.database.transaction() as session:
        lost = {"state": EngineState.READY, "lease_expires_at": now(session) - timedelta(hours=1)}
        session.add(Engine(model_id=BASE_MODEL, used_at=now(session), **lost))
        session.flush()
        assert engines.request_engine(session, BASE_MODEL)
    assert value(scrape(backend), "falqon_engines", state="waiting") == 1


def test_the_database_is_asked_once_in_a_while_and_may_be_away(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = registry_of(backend)
    before = generate_latest(registry)
    backend.add_job()
    assert generate_latest(registry) == before
    monkeypatch.setattr(collector, "CACHED_SECONDS", 0.0)
    assert (
        value(
            generate_latest(registry).decode(),
            "falqon_queue_jobs",
            **{"device": "any", "num_devices": "1"},
        )
        == 1
    )
    backend.database = away = Database(f"sqlite:///{tmp_path / 'other' / 'empty.db'}")
    text = scrape(backend)
    away.dispose()
    assert {name for name, _ in samples(text)} == {"falqon_part_ok"}
    assert value(text, "falqon_part_ok", part="database") == 0
