from collections.abc import Iterator

import pytest
from alembic import command
from sqlalchemy import select, text

from app import migrate
from app.database import Database
from app.models import Orphan

ROWS = (
    "INSERT INTO projects (id, name, created_at) VALUES ('p', 'p', '2026-01-01')",
    *(
        "INSERT INTO files (id, project_id, filename, purpose, bytes, sha256, storage_key, status, created_at, deleted_at) "
        f"VALUES ('{key}', 'p', 'a', 'fine-tune', 1, '0', '{key}', 'processed', '2026-01-01', {deleted_at})"
        for key, deleted_at in (("kept", "NULL"), ("gone", "'2026-01-02'"))
    ),
)


@pytest.fixture
def old(database_url: str) -> Iterator[Database]:
    """As the first revision left it."""
    database = Database(database_url)
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


def test_every_revision_can_be_taken_back(old: Database) -> None:
    migrate.upgrade(old)
    with old.engine.connect() as connection:
        command.downgrade(migrate._config(connection), "0001")
        connection.commit()
        assert connection.execute(text("SELECT id FROM files ORDER BY id")).scalars().all() == ["gone", "kept"]
    migrate.upgrade(old)
    assert migrate.compare_schema(old) == "current"
