import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

import migrations
from app.base.database import Database

Schema = Literal["current", "newer", "older", "too old"]

# Any number that no other lock of the database uses: the letters "falq" in ASCII.
ADVISORY_LOCK = 0x66616C71
LOCK_WAIT_SECONDS = 600.0  # a migration of large tables may take minutes
LOCK_TICK_SECONDS = 0.1


class CannotMigrate(Exception):
    """Migration is not possible; the message is for the operator."""


class MigrationBusy(CannotMigrate):
    pass


def upgrade(database: Database) -> None:
    """Bring the schema up to date, once even if several processes start it. Raises `CannotMigrate`.

    A newer schema is left as it is: this code works on it.
    """
    schema = compare_schema(database)
    if schema == "too old":
        raise CannotMigrate(
            "This database has a schema from before version 0.2.0, which this version cannot "
            "upgrade: start the newest commit of version 0.1.0 on it once, then this version."
        )
    if schema != "older":
        return
    with one_at_a_time(database), database.engine.connect() as connection:
        command.upgrade(_config(connection), "head")
        connection.commit()


def compare_schema(database: Database) -> Schema:
    """Compare the database's schema with the one of this code.

    A revision that this code does not know belongs to a newer version, unless its number comes
    before that of the first one here: migrations only add, so this code works on a newer schema, as
    a rolling upgrade requires.
    """
    with database.read() as session:
        connection = session.connection()
        if not inspect(connection).has_table("alembic_version"):
            return "older"
        current = connection.scalar(text("SELECT version_num FROM alembic_version"))
    revisions = _revisions()
    if current is None or current in revisions[:-1]:
        return "older"
    if current == revisions[-1]:
        return "current"
    return "too old" if current < revisions[0] else "newer"


@contextmanager
def one_at_a_time(database: Database) -> Iterator[None]:
    """Hold the lock of everyone that prepares this database. It ends with its holder.

    Raises `MigrationBusy` when another process holds it for too long, and `CannotMigrate` behind
    PgBouncer, where the lock would stay with a connection that is handed to other clients.
    """
    if database.is_pooled:
        raise CannotMigrate(
            "DATABASE_URL leads through PgBouncer (pgbouncer=true): give this command Postgres' "
            "own address."
        )
    lock = _postgres_lock if database.engine.dialect.name == "postgresql" else _sqlite_lock
    with lock(database):
        yield


@contextmanager
def _postgres_lock(database: Database) -> Iterator[None]:
    # Polled outside of any transaction: CREATE INDEX CONCURRENTLY waits for all transactions, so a
    # transaction that waits for the lock meanwhile would block it for ever.
    engine = database.engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        take = text("SELECT pg_try_advisory_lock(:number)").bindparams(number=ADVISORY_LOCK)
        deadline = time.monotonic() + LOCK_WAIT_SECONDS
        while not connection.scalar(take):
            _wait_a_tick(deadline)
        try:
            yield
        finally:
            connection.invalidate()  # the session ends, and its lock with it


@contextmanager
def _sqlite_lock(database: Database) -> Iterator[None]:
    # A separate connection, because the database's own one is released between two migrations.
    path = database.engine.url.database
    assert path, "a database in memory has one process"
    with Path(f"{path}.migration-lock").open("a") as file:
        deadline = time.monotonic() + LOCK_WAIT_SECONDS
        while not _take(file.fileno()):
            _wait_a_tick(deadline)
        yield


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_a_tick(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise MigrationBusy(
            f"Another process has been migrating this database for {LOCK_WAIT_SECONDS / 60:g} min. "
            "Check that it is still running, then run `falqon migrate` again."
        )
    time.sleep(LOCK_TICK_SECONDS)


@cache
def _revisions() -> list[str]:
    """Return the revisions known to this code, oldest first."""
    scripts = ScriptDirectory.from_config(_config(None))
    return [script.revision for script in scripts.walk_revisions()][::-1]


def _config(connection: object) -> Config:
    config = Config(Path(migrations.__path__[0]) / "alembic.ini")
    config.attributes["connection"] = connection
    return config
