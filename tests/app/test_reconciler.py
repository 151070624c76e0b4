from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from app.base import migrate
from app.base.database import Database, now
from app.base.settings import Settings
from app.base.storage import Storage
from app.garbage import orphans
from app.jobs import queue_forecast, transitions
from app.models import DEFAULT_PROJECT_ID, Base, FileCheck, Job, JobStatus, Orphan
from app.notifier.broker import Notifier
from app.reconciler import Reconciler
from tests.support.backend import Backend
from tests.support.checks import uncheck_files
from tests.support.waiting import wait_for


class CountingNotifier(Notifier):
    """Keeps what it would have sent."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.notified: list[tuple[type[Base], str]] = []

    def notify(self, kind: type[Base], id_: str) -> None:
        self.notified.append((kind, id_))


@pytest.fixture
def notifier(backend: Backend) -> CountingNotifier:
    return CountingNotifier(backend.settings)


@pytest.fixture
def reconciler(backend: Backend, notifier: CountingNotifier) -> Reconciler:
    return Reconciler(backend.database, backend.storage, notifier, backend.settings)


def test_an_expired_lease_is_rescued_and_workers_are_notified(
    backend: Backend, notifier: CountingNotifier, reconciler: Reconciler
) -> None:
    lost = backend.add_job()
    alive = backend.add_job()
    now = backend.job(lost).created_at
    for job_id, expires in ((lost, now - timedelta(seconds=1)), (alive, now + timedelta(hours=1))):
        backend.set(
            job_id, status=JobStatus.RUNNING, attempt=1, lease_owner="w", lease_expires_at=expires
        )
    reconciler.tick()
    assert backend.job(lost).status == JobStatus.QUEUED
    assert backend.job(lost).infra_failures == 1
    assert backend.job(alive).status == JobStatus.RUNNING
    assert notifier.notified == [(Job, lost)]


def test_workers_are_notified_of_a_queued_job_once_in_a_while(
    backend: Backend, notifier: CountingNotifier, reconciler: Reconciler
) -> None:
    job_id = backend.add_job()
    reconciler.tick()
    reconciler.tick()
    Reconciler(backend.database, backend.storage, notifier, backend.settings).tick()
    assert notifier.notified == [(Job, job_id)], "a second reconciler does it no second time"
    backend.set(job_id, notified_at=datetime.now(UTC) - timedelta(seconds=31))
    reconciler.tick()
    assert notifier.notified == [(Job, job_id)] * 2


def test_a_paused_job_is_left_alone(
    backend: Backend, notifier: CountingNotifier, reconciler: Reconciler
) -> None:
    backend.set(backend.add_job(), desired="pause")
    backend.set(backend.add_job(), status=JobStatus.PAUSED)
    reconciler.tick()
    assert notifier.notified == []


def test_workers_are_notified_again_of_an_operation_that_nobody_has_taken(
    backend: Backend, notifier: CountingNotifier, reconciler: Reconciler
) -> None:
    for _ in range(3):
        backend.set(backend.add_job(), status=JobStatus.PAUSED)
    uncheck_files(backend.database)
    with backend.database.transaction() as session:
        old, claimed, _ = session.scalars(select(FileCheck).order_by(FileCheck.id))
        old.created_at = claimed.created_at = old.created_at - timedelta(minutes=1)
        claimed.lease_expires_at = now(session) + timedelta(minutes=1)
    reconciler.tick()
    reconciler.tick()
    assert notifier.notified == [(FileCheck, old.id)]


def test_a_storage_that_cannot_delete_is_asked_again_later(
    backend: Backend, reconciler: Reconciler
) -> None:
    def let_an_hour_pass() -> None:
        with backend.database.transaction() as session:
            session.execute(update(Orphan).values(due_at=now(session) - timedelta(seconds=1)))

    def orphans_left() -> int:
        with backend.database.read() as session:
            return session.query(Orphan).count()

    backend.storage.put("stone", [b"1"])  # so that there is no folder of this name
    orphans.put(backend.database, backend.storage, "pebble", [b"1"])
    with backend.database.transaction() as session:
        orphans.mark_orphaned(session, ["stone/part"])
    let_an_hour_pass()
    reconciler.sweep()
    assert orphans_left() == 2
    backend.storage.delete("stone")
    let_an_hour_pass()
    reconciler.sweep()
    assert orphans_left() == 0
    assert "pebble" not in backend.storage.keys("")


def test_the_reconciler_survives_an_unavailable_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.reconciler.TICK_SECONDS", 0.01)
    settings = Settings(data_dir=tmp_path)
    notifier = CountingNotifier(settings)
    database = Database(settings.resolved_database_url)  # without tables
    reconciler = Reconciler(database, Storage(settings.resolved_storage_url), notifier, settings)
    reconciler.start()
    migrate.upgrade(database)
    backend = Backend(tmp_path, database, settings.resolved_database_url)
    job_id = backend.add_job()
    wait_for(lambda: notifier.notified == [(Job, job_id)])
    reconciler.stop()
    database.dispose()


def test_workers_are_notified_of_a_job_that_waits_after_a_loss_when_its_time_has_come(
    backend: Backend, notifier: CountingNotifier, tmp_path: Path
) -> None:
    settings = backend.settings.model_copy(update={"retry_delay": timedelta(seconds=30)})
    reconciler = Reconciler(backend.database, backend.storage, notifier, settings)
    job_id = backend.add_job()
    past = backend.job(job_id).created_at - timedelta(seconds=1)
    backend.set(job_id, status=JobStatus.RUNNING, attempt=1, lease_owner="w", lease_expires_at=past)
    reconciler.tick()
    assert (backend.job(job_id).status, notifier.notified) == (JobStatus.QUEUED, [])
    with backend.database.read() as session:
        assert queue_forecast.read_queue(session, settings).position_of(job_id) is None
    backend.set(job_id, not_before=past)
    reconciler.tick()
    assert notifier.notified == [(Job, job_id)]
    with backend.database.read() as session:
        place = queue_forecast.read_queue(session, settings).position_of(job_id)
    assert place is not None
    assert place.position == 1


def test_whoever_resumes_a_job_does_not_wait(backend: Backend) -> None:
    job_id = backend.add_job()
    backend.set(
        job_id,
        status=JobStatus.PAUSED,
        not_before=backend.job(job_id).created_at + timedelta(hours=1),
    )
    with backend.database.transaction() as session:
        transitions.resume(session, DEFAULT_PROJECT_ID, job_id, backend.settings)
    assert backend.job(job_id).not_before is None
