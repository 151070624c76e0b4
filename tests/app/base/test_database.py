from datetime import UTC, datetime, timedelta

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event, select, text, update

from app.base import migrate
from app.base.database import DATABASE_UNAVAILABLE_ERRORS, Database, now_plus
from app.models import Base, Project
from tests.support.postgres import PostgresServer


def test_migrations_build_exactly_the_declared_tables(database: Database) -> None:
    is_sqlite = database.engine.dialect.name == "sqlite"

    def is_read_back(_item: object, name: str | None, *_: object) -> bool:
        """Of an index SQLAlchemy does not learn from SQLite which columns descend."""
        return not (is_sqlite and name == "ix_jobs_queue")

    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": is_read_back})
        assert compare_metadata(context, Base.metadata) == []
        if is_sqlite:
            (queue,) = connection.scalars(
                text("SELECT sql FROM sqlite_master WHERE name = 'ix_jobs_queue'")
            )
            columns = "status, project_id, desired, priority DESC, id, not_before, num_gpus, gpu"
            assert queue.endswith(f"({columns})")
    assert migrate.compare_schema(database) == "current"


def test_times_are_aware_utc_and_come_from_the_database(database: Database) -> None:
    with database.transaction() as session:
        session.add(Project(id="proj_a", name="a"))
    with database.read() as session:
        created = session.scalars(select(Project)).one().created_at
        later = session.scalar(select(now_plus(60)))
    assert created.tzinfo is UTC
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=5)
    assert later is not None
    assert timedelta(seconds=59) < later - created < timedelta(seconds=90)


def test_times_compare_inside_the_database(database: Database) -> None:
    with database.transaction() as session:
        session.add(
            Project(id="proj_a", name="a", created_at=datetime.now(UTC) - timedelta(seconds=30))
        )
    with database.read() as session:
        assert (
            session.scalars(select(Project).where(Project.created_at < now_plus(-20))).one_or_none()
            is not None
        )
        assert (
            session.scalars(select(Project).where(Project.created_at < now_plus(-40))).one_or_none()
            is None
        )


def test_a_process_that_stops_inside_a_transaction_holds_its_locks_not_for_long(
    postgres: PostgresServer,
) -> None:
    url = postgres.create_database("stopped")
    patient = Database(url)
    database = Database(url + "&options=-c%20idle_in_transaction_session_timeout%3D200ms")
    migrate.upgrade(patient)
    with patient.transaction() as session:
        session.add(Project(id="proj_a", name="a"))
    rename = update(Project).where(Project.id == "proj_a")

    def stop_inside() -> None:
        with database.transaction() as stopped:
            stopped.execute(rename.values(name="of the one that stopped"))
            with patient.transaction() as other:
                other.execute(rename.values(name="of the other"))
            stopped.execute(rename.values(name="too late"))

    with pytest.raises(DATABASE_UNAVAILABLE_ERRORS):
        stop_inside()
    with patient.read() as session:
        assert session.scalars(select(Project.name)).one() == "of the other"
    patient.dispose()
    database.dispose()


def test_a_connection_that_is_used_while_the_database_is_disposed_is_closed_after_its_use(
    database: Database,
) -> None:
    closed = []
    event.listen(database.engine, "close", lambda connection, _record: closed.append(connection))
    with database.read() as session:
        used = session.connection().connection.dbapi_connection
        database.dispose()
        assert used not in closed
    assert used in closed
