"""The tables of a database: copied from one that the migrations have made once in this process."""

import tempfile
from functools import cache
from pathlib import Path

import psycopg
from sqlalchemy.engine import URL

from app import migrate
from app.database import Database

TEMPLATE = "migrated"


def migrate_database(database: Database) -> None:
    """Bring the schema up to date: an empty database becomes a copy of a migrated one."""
    url = database.engine.url
    if url.get_backend_name() == "sqlite":
        assert url.database
        path = Path(url.database)
        if path.stat().st_size == 0:
            path.write_bytes(_migrated_sqlite())
            return
    elif _is_empty(url):
        _create_template(url.set(database=TEMPLATE).difference_update_query(["options"]))
        with _connect(url.set(database="postgres")) as connection:
            connection.execute(f'DROP DATABASE "{url.database}"'.encode())
            connection.execute(f'CREATE DATABASE "{url.database}" TEMPLATE {TEMPLATE}'.encode())
        return
    migrate.upgrade(database)


@cache
def _migrated_sqlite() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "falqon.db"
        _upgrade(f"sqlite:///{path}")
        return path.read_bytes()


@cache
def _create_template(url: URL) -> None:
    with _connect(url.set(database="postgres")) as connection:
        connection.execute(f"CREATE DATABASE {TEMPLATE}".encode())
    _upgrade(url.render_as_string(hide_password=False))


def _upgrade(url: str) -> None:
    database = Database(url)
    migrate.upgrade(database)
    database.dispose()


def _is_empty(url: URL) -> bool:
    with _connect(url) as connection:
        row = connection.execute("SELECT FROM pg_tables WHERE schemaname = 'public'").fetchone()
    return row is None


def _connect(url: URL) -> psycopg.Connection:
    options = {"host": url.host, "port": url.port, "user": url.username, "password": url.password}
    return psycopg.connect(autocommit=True, dbname=url.database, **(options | dict(url.query)))
