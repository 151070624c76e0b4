from collections.abc import Iterator

import pytest
from alembic import command
from sqlalchemy import inspect, text

from app.base import migrate
from app.base.database import Database


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Database]:
    database = Database(empty_database_url)
    yield database
    database.dispose()


@pytest.fixture
def migrated(empty: Database) -> Database:
    migrate.upgrade(empty)
    return empty


def mark(database: Database, revision: str) -> None:
    with database.engine.begin() as connection:
        statement = text("UPDATE alembic_version SET version_num = :revision")
        connection.execute(statement, {"revision": revision})


def test_a_schema_is_compared_with_that_of_the_code(empty: Database) -> None:
    assert migrate.compare_schema(empty) == "older"
    migrate.upgrade(empty)
    assert migrate.compare_schema(empty) == "current"
    mark(empty, "9999")
    assert migrate.compare_schema(empty) == "newer"
    with empty.engine.begin() as connection:
        connection.execute(text("DELETE FROM alembic_version"))
    assert migrate.compare_schema(empty) == "older"


def test_a_schema_from_before_the_first_release_is_refused_with_the_version_to_start(
    migrated: Database,
) -> None:
    mark(migrated, "0050")
    assert migrate.compare_schema(migrated) == "too old"
    with pytest.raises(migrate.CannotMigrate, match=r"start the newest commit of version 0\.1\.0"):
        migrate.upgrade(migrated)


def test_the_first_revision_can_be_taken_back(migrated: Database) -> None:
    with migrated.engine.connect() as connection:
        command.downgrade(migrate._config(connection), "base")
        connection.commit()
        assert inspect(connection).get_table_names() == ["alembic_version"]
    migrate.upgrade(migrated)
    assert migrate.compare_schema(migrated) == "current"


@pytest.mark.parametrize("revision", [None, "9999"], ids=["current", "newer"])
def test_a_current_or_newer_schema_takes_no_lock(
    migrated: Database, monkeypatch: pytest.MonkeyPatch, revision: str | None
) -> None:
    """As for `falqon admin drain` while another process holds it, and with the version before."""
    monkeypatch.setattr(migrate, "LOCK_WAIT_SECONDS", 0.3)
    if revision is not None:
        mark(migrated, revision)
    with migrate.one_at_a_time(migrated):
        migrate.upgrade(migrated)


def test_a_process_that_waits_too_long_for_a_migration_says_what_to_do(
    empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_WAIT_SECONDS", 0.3)
    with migrate.one_at_a_time(empty), pytest.raises(migrate.MigrationBusy, match="falqon migrate"):
        migrate.upgrade(empty)
    migrate.upgrade(empty)
