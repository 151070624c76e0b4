"""The tables of jobs that were there before a migration, and that stay when it is taken back."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, inspect, text

import migrations
from app.database import Database
from tests.support.postgres import PostgresServer

COLUMNS = (
    "id, project_id, status, desired, base_model_id, training_file_id, requested, metadata, "
    "attempt, infra_failures, last_event_seq, device_seconds, created_at"
)
JOB = (
    f"INSERT INTO jobs ({COLUMNS}) VALUES (:id, 'p', 'succeeded', 'run', 'm', 'f', '{{}}', "
    ":metadata, 0, 0, 0, 0, '2026-01-01')"
)


@pytest.fixture
def connection(empty_database_url: str) -> Iterator[Connection]:
    database = Database(empty_database_url)
    with database.engine.connect() as connection:
        yield connection
    database.dispose()


def migrate(connection: Connection, to: str) -> None:
    config = Config(Path(migrations.__path__[0]) / "alembic.ini")
    config.attributes["connection"] = connection
    (command.downgrade if to == "0001" and _revision(connection) else command.upgrade)(config, to)


def test_metadata_of_older_jobs_is_found_and_nothing_is_lost_on_the_way_back(
    connection: Connection,
) -> None:
    migrate(connection, "0001")
    connection.execute(
        text("INSERT INTO projects (id, name, created_at) VALUES ('p', 'p', '2026-01-01')")
    )
    connection.execute(
        text(
            "INSERT INTO models (id, config, bytes, created_at) VALUES ('m', '{}', 1, '2026-01-01')"
        )
    )
    columns = "id, project_id, filename, purpose, bytes, sha256, storage_key, status, created_at"
    connection.execute(
        text(
            f"INSERT INTO files ({columns}) VALUES ('f', 'p', 'f', 'fine-tune', 1, '0', 'k', "
            "'processed', '2026-01-01')"
        )
    )
    for id_, metadata in (("a", '{"team": "red", "try": "1"}'), ("b", None), ("c", "{}")):
        connection.execute(text(JOB), {"id": id_, "metadata": metadata})
    connection.commit()

    migrate(connection, "0004")
    pairs = connection.execute(
        text("SELECT job_id, name, value, project_id FROM job_metadata ORDER BY name")
    ).all()
    assert [tuple(pair) for pair in pairs] == [("a", "team", "red", "p"), ("a", "try", "1", "p")]

    migrate(connection, "0001")
    assert [row[0] for row in connection.execute(text("SELECT id FROM jobs ORDER BY id"))] == [
        "a",
        "b",
        "c",
    ]


def test_what_older_jobs_cost_is_booked_on_the_day_of_their_newest_attempt(
    connection: Connection,
) -> None:
    migrate(connection, "0032")
    for statement in (
        "INSERT INTO projects (id, name, created_at, weight, virtual_time, usage_device_seconds) "
        "VALUES ('p', 'p', '2026-01-01', 1, 0, 0)",
        "INSERT INTO models (id, config, bytes, created_at) VALUES ('m', '{}', 1, '2026-01-01')",
        "INSERT INTO files (id, project_id, filename, purpose, bytes, sha256, storage_key, status, "
        "created_at) VALUES ('f', 'p', 'f', 'fine-tune', 1, '0', 'k', 'processed', '2026-01-01')",
        f"INSERT INTO jobs ({COLUMNS}, priority, execution_seconds, progress) VALUES "
        "('a', 'p', 'failed', 'run', 'm', 'f', '{}', NULL, 2, 0, 0, 7.5, '2026-01-01', 0, 7.5, "
        """'{"cost": {"accrued": "1.2345"}}'),"""
        " ('b', 'p', 'queued', 'run', 'm', 'f', '{}', NULL, 0, 0, 0, 0, '2026-01-01', 0, 0, NULL)",
        "INSERT INTO attempts (job_id, number, worker, device, num_devices, tokens, created_at, "
        "ended_at) VALUES "
        "('a', 1, 'w', 'cpu', 1, 10, '2026-01-02 22:00:00Z', '2026-01-02 23:00:00Z'), "
        "('a', 2, 'w', 'cpu', 1, 5, '2026-01-02 23:30:00Z', '2026-01-03 00:30:00Z')",
    ):
        connection.exec_driver_sql(statement)
    connection.commit()

    migrate(connection, "0033")
    rows = connection.execute(
        text(
            "SELECT job_id, day, project_id, base_model_id, cost, device_seconds, tokens "
            "FROM usage_days"
        )
    )
    assert [(row[0], str(row[1]), *row[2:]) for row in rows] == [
        ("a", "2026-01-03", "p", "m", 12_345, 7.5, 15)
    ]


def _revision(connection: Connection) -> str | None:
    there = connection.dialect.has_table(connection, "alembic_version")
    return connection.scalar(text("SELECT version_num FROM alembic_version")) if there else None


def test_indexes_for_large_projects_are_made_after_a_run_that_broke_between_them(
    postgres: PostgresServer,
) -> None:
    database = Database(postgres.create_database("broken"))
    with database.engine.connect() as connection:
        migrate(connection, "0013")
        # What concurrent statements have done stays, and the revision is not noted.
        connection.execute(text("ALTER TABLE checkpoints ADD COLUMN project_id VARCHAR"))
        connection.execute(text("CREATE INDEX ix_models_project_id_created_at_id ON models (id)"))
        connection.commit()
        migrate(connection, "0016")
        columns = {
            index["name"]: index["column_names"]
            for index in inspect(connection).get_indexes("models")
        }
        assert columns["ix_models_project_id_created_at_id"] == ["project_id", "created_at", "id"]
    database.dispose()
