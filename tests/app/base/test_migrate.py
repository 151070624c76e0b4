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


def test_engines_of_a_version_with_one_for_each_model_become_first_ones(empty: Database) -> None:
    """And that version may go on beside the newer one, which may be taken back."""
    model = "INSERT INTO models (id, config, bytes, created_at) VALUES ('m', '{}', 1, '2026-01-01')"
    engine = (
        "INSERT INTO engines (model_id, state, attempt, used_at, created_at) "
        "VALUES ('m', 'ready', 7, '2026-01-01', '2026-01-01') ON CONFLICT DO NOTHING"
    )
    read = text("SELECT model_id, replica, state, attempt FROM engines ORDER BY replica")
    with empty.engine.connect() as connection:
        command.upgrade(migrate._config(connection), "0067")
        connection.execute(text(model))
        connection.execute(text(engine))
        connection.commit()
        for _ in range(2):
            command.upgrade(migrate._config(connection), "0068")
            assert inspect(connection).get_pk_constraint("engines")["constrained_columns"] == [
                "model_id",
                "replica",
            ]
            first = ("m", 0, "ready", 7)
            assert connection.execute(read).all() == [first]
            connection.execute(text(engine))
            assert connection.execute(read).all() == [first], "an older version's request"
            further = engine.replace("(model_id", "(replica, model_id").replace("('m'", "(1, 'm'")
            connection.execute(text(further))
            assert connection.execute(read).all() == [first, ("m", 1, "ready", 7)]
            connection.commit()
            command.downgrade(migrate._config(connection), "0067")
            (row,) = connection.execute(text("SELECT model_id, state, attempt FROM engines")).all()
            assert row == ("m", "ready", 7)
            assert connection.execute(text("SELECT count(*) FROM models")).scalar() == 1
            connection.commit()


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
