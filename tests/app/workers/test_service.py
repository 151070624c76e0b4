from datetime import date, timedelta

import pytest
from sqlalchemy import select, update

from app.base.database import Database, now_plus
from app.base.settings import Settings
from app.jobs import claims
from app.models import DEFAULT_PROJECT_ID, Drain, JobStatus, Model, Project, Worker
from app.workers import service
from tests.support.backend import Backend
from tests.support.rows import checked_file, queued_job

SETTINGS = Settings(poll=timedelta(seconds=10))


def unseen_for(database: Database, worker_id: str, seconds: float) -> None:
    with database.transaction() as session:
        session.execute(
            update(Worker).where(Worker.id == worker_id).values(seen_at=now_plus(-seconds))
        )


def test_a_worker_that_stopped_polling_is_not_counted(database: Database) -> None:
    for worker_id in ("a", "b", "a"):
        with database.transaction() as session:
            service.mark_seen(session, worker_id, "cpu", 2)
    unseen_for(database, "b", 31)
    with database.read() as session:
        assert service.list_idle(session, SETTINGS).keys() == {"a"}
    with database.transaction() as session:
        service.mark_seen(session, "b", "cpu", 2)
    with database.read() as session:
        assert service.list_idle(session, SETTINGS).keys() == {"a", "b"}


def test_a_worker_that_never_returns_is_forgotten(database: Database) -> None:
    with database.transaction() as session:
        service.mark_seen(session, "gone", "cpu", 2)
    unseen_for(database, "gone", service.FORGOTTEN_SECONDS + 1)
    with database.transaction() as session:
        service.mark_seen(session, "new", "cpu", 2)
    with database.read() as session:
        assert session.scalars(select(Worker.id)).all() == ["new"]


def test_a_worker_with_a_long_job_is_not_forgotten(database: Database) -> None:
    """While it has one it is seen by its lease alone."""
    with database.transaction() as session:
        session.add(Project(id=DEFAULT_PROJECT_ID, name="default"))
        session.add(Model(id="tiny", config={}, bytes=1))
        session.flush()
        session.add(checked_file("file-1", DEFAULT_PROJECT_ID))
        session.flush()
        leased = {"lease_owner": "busy", "lease_expires_at": now_plus(60)}
        running = leased | {"status": JobStatus.RUNNING}
        session.add(queued_job("ftjob-1", DEFAULT_PROJECT_ID, "file-1", **running))
        service.mark_seen(session, "busy", "h100", 1, 8)
        service.drain(session, SETTINGS, "busy", Drain.FINISH)
    unseen_for(database, "busy", service.FORGOTTEN_SECONDS + 1)
    with database.transaction() as session:
        service.mark_seen(session, "new", "cpu", 2)
    with database.read() as session:
        assert service.most_gpus(session, SETTINGS) == {"h100": 8, "cpu": 1}
        live = service.list_live(session, SETTINGS)
        assert [each.worker.id for each in live] == ["new", "busy"]
    with database.transaction() as session:
        assert not service.mark_seen(session, "busy", "h100", 1, 8), "it is still being drained"


def test_a_history_counts_the_newest_jobs(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        backend.add_job()
        with backend.database.transaction() as session:
            assert claims.claim(session, owner="w-1", device="cpu", num_devices=1, lease_seconds=60)

    def num_attempts(project_id: str | None) -> int:
        with backend.database.read() as session:
            history = service.history(session, project_id, date(2020, 1, 1), 10)
        return sum(worker.num_attempts for worker in history)

    assert num_attempts(None) == num_attempts(DEFAULT_PROJECT_ID) == 3
    assert num_attempts("proj_other") == 0
    monkeypatch.setattr(service, "HISTORY_JOBS", 2)
    assert num_attempts(None) == num_attempts(DEFAULT_PROJECT_ID) == 2
