"""The tables of a database: copied from one that the migrations have made once in this process."""

import tempfile
from functools import cache
from pathlib import Path

import psycopg
from sqlalchemy.engine import URL, make_url

from app.base import migrate
from app.base.database import Database
from tests.support.postgres import PostgresServer

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
        _create_template(_template(url))
        with _connect(url.set(database="postgres")) as connection:
            connection.execute(f'DROP DATABASE "{url.database}"'.encode())
            copy = f'CREATE DATABASE "{url.database}" TEMPLATE {TEMPLATE} STRATEGY FILE_COPY'
            connection.execute(copy.encode())
        return
    elif migrate.compare_schema(database) == "current":
        return
    migrate.upgrade(database)


def create_migrated(server: PostgresServer, name: str) -> str:
    """Return the address of a new database with the tables. An empty one that `migrate_database`
    has to replace takes ten times the CPU time, most of it for its end.
    """
    _create_template(_template(make_url(server.url)))
    return server.create_database(name, template=TEMPLATE)


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


def _template(url: URL) -> URL:
    """Of the server that has this database."""
    template = url.set(drivername="postgresql", database=TEMPLATE)
    return template.difference_update_query(["options"])


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
