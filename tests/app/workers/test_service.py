from datetime import timedelta

from sqlalchemy import select, update

from app.database import Database, now_plus
from app.models import Worker
from app.settings import Settings
from app.workers import service

SETTINGS = Settings(poll=timedelta(seconds=10))


def unseen_for(database: Database, worker_id: str, seconds: float) -> None:
    with database.transaction() as session:
        session.execute(
            update(Worker).where(Worker.id == worker_id).values(seen_at=now_plus(-seconds))
        )


def test_who_does_not_look_any_more_is_not_counted(database: Database) -> None:
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


def test_those_that_never_come_back_are_forgotten(database: Database) -> None:
    with database.transaction() as session:
        service.mark_seen(session, "gone", "cpu", 2)
    unseen_for(database, "gone", service.FORGOTTEN_SECONDS + 1)
    with database.transaction() as session:
        service.mark_seen(session, "new", "cpu", 2)
    with database.read() as session:
        assert session.scalars(select(Worker.id)).all() == ["new"]
