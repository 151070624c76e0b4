from collections.abc import Iterator

import pytest
from alembic import command
from sqlalchemy import inspect, select, text

from app import migrate
from app.database import Database
from app.models import FileCheck, Orphan
from app.operations import claims

ROWS = (
    "INSERT INTO projects (id, name, created_at) VALUES ('p', 'p', '2026-01-01')",
    *(
        "INSERT INTO files (id, project_id, filename, purpose, bytes, sha256, storage_key, "
        f"status, created_at, deleted_at) VALUES ('{key}', 'p', 'a', 'fine-tune', 1, '0', '{key}', "
        f"'processed', '2026-01-01', {deleted_at})"
        for key, deleted_at in (("kept", "NULL"), ("gone", "'2026-01-02'"))
    ),
)


@pytest.fixture
def old(empty_database_url: str) -> Iterator[Database]:
    """As the first revision left it."""
    database = Database(empty_database_url)
    with database.engine.connect() as connection:
        command.upgrade(migrate._config(connection), "0001")
        for row in ROWS:
            connection.execute(text(row))
        connection.commit()
    yield database
    database.dispose()


def test_the_bytes_of_files_deleted_long_ago_are_due(old: Database) -> None:
    migrate.upgrade(old)
    with old.read() as session:
        assert session.scalars(select(Orphan.storage_key)).all() == ["gone"]


def test_a_file_that_was_never_checked_is_checked_then(old: Database) -> None:
    with old.engine.connect() as connection:
        connection.execute(text("UPDATE files SET status = 'uploaded'"))
        connection.commit()
    migrate.upgrade(old)
    with old.transaction() as session:
        check = claims.claim(session, FileCheck, 60)
        assert check is not None
        assert (check.file_id, check.project_id, check.attempts) == ("kept", "p", 1)
        assert claims.claim(session, FileCheck, 60) is None, "the other one is deleted"


def test_every_revision_can_be_taken_back(old: Database) -> None:
    migrate.upgrade(old)
    with old.engine.connect() as connection:
        command.downgrade(migrate._config(connection), "0001")
        connection.commit()
        assert connection.execute(text("SELECT id FROM files ORDER BY id")).scalars().all() == [
            "gone",
            "kept",
        ]
    migrate.upgrade(old)
    assert migrate.compare_schema(old) == "current"


def test_a_migration_that_was_interrupted_is_done_again(old: Database) -> None:
    """On Postgres an index ends the transaction before it: the tables may stand without it."""
    with old.engine.connect() as connection:
        command.upgrade(migrate._config(connection), "0005")
        connection.execute(text("DROP INDEX ix_jobs_queue"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0003'"))
        connection.commit()
    migrate.upgrade(old)
    assert migrate.compare_schema(old) == "current"
    with old.engine.connect() as connection:
        names = {index["name"] for index in inspect(connection).get_indexes("jobs")}
    assert {"ix_jobs_queue", "ix_jobs_base_checkpoint_id"} <= names


def test_an_older_and_an_empty_database_are_told_from_a_newer(old: Database) -> None:
    assert migrate.compare_schema(old) == "older"
    migrate.upgrade(old)
    with old.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'of-tomorrow'"))
    assert migrate.compare_schema(old) == "newer"
    with old.engine.begin() as connection:
        connection.execute(text("DROP TABLE alembic_version"))
    assert migrate.compare_schema(old) == "older"


def test_what_is_up_to_date_or_newer_takes_no_lock(
    old: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for `falqon admin drain` while somebody holds it, and with the version before."""
    migrate.upgrade(old)
    monkeypatch.setattr(migrate, "LOCK_WAIT_SECONDS", 0.3)
    with migrate.one_at_a_time(old):
        migrate.upgrade(old)
    with old.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'of-tomorrow'"))
    migrate.upgrade(old)
    assert migrate.compare_schema(old) == "newer"


def test_who_waits_too_long_for_a_migration_is_told(
    old: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_WAIT_SECONDS", 0.3)
    with migrate.one_at_a_time(old), pytest.raises(migrate.MigrationBusy, match="falqon migrate"):
        migrate.upgrade(old)
    migrate.upgrade(old)
