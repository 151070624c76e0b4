from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from app import migrate
from app.database import Database, now
from app.garbage import orphans
from app.jobs import queue_forecast, service
from app.models import DEFAULT_PROJECT_ID, File, FileStatus, JobStatus, Orphan
from app.notifier.broker import CPU_QUEUE, GPU_QUEUE, Notifier
from app.reconciler import Reconciler
from app.settings import Settings
from app.storage import Storage
from tests.support.house import House
from tests.support.waiting import wait_for


class CountingNotifier(Notifier):
    """Keeps what it would have sent."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.rung: list[tuple[str, str]] = []

    def _ring(self, task: str, queue: str, id_: str) -> None:
        self.rung.append((queue, id_))


@pytest.fixture
def house(tmp_path: Path, database: Database, database_url: str) -> Iterator[House]:
    house = House(tmp_path / "data", database, database_url)
    yield house
    house.close()


@pytest.fixture
def notifier(house: House) -> CountingNotifier:
    return CountingNotifier(house.settings)


@pytest.fixture
def reconciler(house: House, notifier: CountingNotifier) -> Reconciler:
    return Reconciler(house.database, house.storage, notifier, house.settings)


def test_an_expired_lease_is_rescued_and_rung(house: House, notifier: CountingNotifier, reconciler: Reconciler) -> None:
    lost, alive = house.add_job(), house.add_job()
    now = house.job(lost).created_at
    for job_id, expires in ((lost, now - timedelta(seconds=1)), (alive, now + timedelta(hours=1))):
        house.set(job_id, status=JobStatus.RUNNING, attempt=1, lease_owner="w", lease_expires_at=expires)
    reconciler.tick()
    assert house.job(lost).status == JobStatus.QUEUED
    assert house.job(lost).infra_failures == 1
    assert house.job(alive).status == JobStatus.RUNNING
    assert notifier.rung == [(GPU_QUEUE, lost)]


def test_a_queued_job_is_rung_once_in_a_while(house: House, notifier: CountingNotifier, reconciler: Reconciler) -> None:
    job_id = house.add_job()
    reconciler.tick()
    reconciler.tick()
    Reconciler(house.database, house.storage, notifier, house.settings).tick()
    assert notifier.rung == [(GPU_QUEUE, job_id)], "a second reconciler rings no second time"
    house.set(job_id, rung_at=datetime.now(UTC) - timedelta(seconds=31))
    reconciler.tick()
    assert notifier.rung == [(GPU_QUEUE, job_id)] * 2


def test_a_paused_job_is_left_alone(house: House, notifier: CountingNotifier, reconciler: Reconciler) -> None:
    house.set(house.add_job(), desired="pause")
    house.set(house.add_job(), status=JobStatus.PAUSED)
    reconciler.tick()
    assert notifier.rung == []


def test_a_file_that_nobody_checked_is_rung(house: House, notifier: CountingNotifier, reconciler: Reconciler) -> None:
    old, fresh = (house.job(house.add_job()) for _ in range(2))
    for job, age in ((old, 60), (fresh, 0)):
        house.set(job.id, status=JobStatus.VALIDATING_FILES)
        with house.database.transaction() as session:
            values = {"status": FileStatus.UPLOADED, "created_at": job.created_at - timedelta(seconds=age)}
            session.execute(update(File).where(File.id == job.training_file_id).values(values))
    reconciler.tick()
    reconciler.tick()
    assert notifier.rung == [(CPU_QUEUE, old.training_file_id)]


def test_a_storage_that_cannot_delete_is_asked_again_later(house: House, reconciler: Reconciler) -> None:
    def let_an_hour_pass() -> None:
        with house.database.transaction() as session:
            session.execute(update(Orphan).values(due_at=now(session) - timedelta(seconds=1)))

    def orphans_left() -> int:
        with house.database.read() as session:
            return session.query(Orphan).count()

    house.storage.put("stone", [b"1"])  # so that there is no folder of this name
    orphans.put(house.database, house.storage, "pebble", [b"1"])
    with house.database.transaction() as session:
        orphans.abandon(session, ["stone/part"])
    let_an_hour_pass()
    reconciler.sweep()
    assert orphans_left() == 2
    house.storage.delete("stone")
    let_an_hour_pass()
    reconciler.sweep()
    assert orphans_left() == 0
    assert "pebble" not in house.storage.keys("")


def test_it_survives_a_database_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.reconciler.TICK_SECONDS", 0.01)
    settings = Settings(data_dir=tmp_path)
    notifier = CountingNotifier(settings)
    database = Database(settings.resolved_database_url)  # without tables
    reconciler = Reconciler(database, Storage(settings.resolved_storage_url), notifier, settings)
    reconciler.start()
    migrate.upgrade(database)
    house = House(tmp_path, database, settings.resolved_database_url)
    job_id = house.add_job()
    wait_for(lambda: notifier.rung == [(GPU_QUEUE, job_id)])
    reconciler.stop()
    database.dispose()


def test_a_job_that_waits_after_a_loss_is_rung_when_its_time_has_come(house: House, notifier: CountingNotifier, tmp_path: Path) -> None:
    settings = house.settings.model_copy(update={"retry_delay": timedelta(seconds=30)})
    reconciler = Reconciler(house.database, house.storage, notifier, settings)
    job_id = house.add_job()
    past = house.job(job_id).created_at - timedelta(seconds=1)
    house.set(job_id, status=JobStatus.RUNNING, attempt=1, lease_owner="w", lease_expires_at=past)
    reconciler.tick()
    assert (house.job(job_id).status, notifier.rung) == (JobStatus.QUEUED, [])
    with house.database.read() as session:
        assert queue_forecast.look(session, settings).place(job_id) is None
    house.set(job_id, not_before=past)
    reconciler.tick()
    assert notifier.rung == [(GPU_QUEUE, job_id)]
    with house.database.read() as session:
        place = queue_forecast.look(session, settings).place(job_id)
    assert place is not None
    assert place.position == 1


def test_whoever_resumes_a_job_does_not_wait(house: House) -> None:
    job_id = house.add_job()
    house.set(job_id, status=JobStatus.PAUSED, not_before=house.job(job_id).created_at + timedelta(hours=1))
    with house.database.transaction() as session:
        service.resume(session, DEFAULT_PROJECT_ID, job_id, house.settings)
    assert house.job(job_id).not_before is None
