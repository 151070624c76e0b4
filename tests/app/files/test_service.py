from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from app.database import Database, now
from app.errors import InvalidRequest
from app.files import service
from app.garbage import orphans
from app.models import DEFAULT_PROJECT_ID, File, JobStatus, Orphan
from app.notifier.broker import Notifier
from app.reconciler import Reconciler
from tests.support.house import House


@pytest.fixture
def house(tmp_path: Path, database: Database, database_url: str) -> Iterator[House]:
    house = House(tmp_path / "data", database, database_url)
    yield house
    house.close()


def age(house: House, file_id: str, seconds: int) -> None:
    """Its end lies this far back."""
    with house.database.transaction() as session:
        session.execute(update(File).where(File.id == file_id).values(expires_at=now(session) - timedelta(seconds=seconds)))


def let_an_hour_pass(house: House) -> None:
    with house.database.transaction() as session:
        session.execute(update(Orphan).values(due_at=now(session) - timedelta(seconds=1)))


def deleted(house: House, file_id: str) -> bool:
    with house.database.read() as session:
        return session.get_one(File, file_id).deleted_at is not None


def test_a_file_expires_once_no_job_needs_it(house: House) -> None:
    job_id = house.add_job()
    file_id = house.job(job_id).training_file_id
    with house.database.read() as session:
        key = session.get_one(File, file_id).storage_key
    reconciler = Reconciler(house.database, house.storage, Notifier(house.settings), house.settings)
    age(house, file_id, -60)
    house.set(job_id, rung_at=house.job(job_id).created_at, status=JobStatus.PAUSED)
    reconciler.tick()
    age(house, file_id, 1)
    reconciler.tick()
    assert not deleted(house, file_id), "its job is paused, not over"
    house.set(job_id, status=JobStatus.CANCELLED)
    reconciler.tick()
    assert deleted(house, file_id)
    assert house.storage.keys("projects") == [key], "a download may be under way"
    let_an_hour_pass(house)
    reconciler.sweep()
    assert house.storage.keys("projects") == []
    assert service.remove_expired(house.database) == 0


def test_a_file_whose_end_has_come_starts_no_job(house: House) -> None:
    file_id = house.job(house.add_job()).training_file_id
    for seconds in (-60, 1):
        age(house, file_id, seconds)
        with house.database.transaction() as session:
            if seconds < 0:
                service.get_for_job(session, DEFAULT_PROJECT_ID, file_id, None, lock=True)
                continue
            with pytest.raises(InvalidRequest, match="has expired"):
                service.get_for_job(session, DEFAULT_PROJECT_ID, file_id, None, lock=True)


def test_the_bytes_of_a_deleted_file_go_a_while_later(house: House) -> None:
    gone, kept = (house.job(house.add_job()) for _ in range(2))
    house.set(gone.id, status=JobStatus.CANCELLED)
    with house.database.transaction() as session:
        service.delete(session, DEFAULT_PROJECT_ID, gone.training_file_id)
    let_an_hour_pass(house)
    assert orphans.sweep(house.database, house.storage) == 1
    assert [key.split("/")[-1] for key in house.storage.keys("projects")] == [kept.training_file_id]
