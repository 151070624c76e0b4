"""Which of the two databases a test runs on."""

import itertools
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from tests.support.postgres import PostgresServer
from tests.support.schema import create_migrated

_numbers = itertools.count()


def create_database(request: pytest.FixtureRequest, folder: Path, *, empty: bool = False) -> str:
    """Return the address of a new one of the kind that the fixture's parameter names, for
    `migrate_database`: on Postgres it has the tables, unless it has to be empty.
    """
    if request.param == "sqlite":
        return f"sqlite:///{folder / 'falqon.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    name = f"test_{next(_numbers)}"
    return server.create_database(name) if empty else create_migrated(server, name)


def num_waiting_for(session: Session) -> int:
    """Return how many transactions wait for a lock of this one, on Postgres."""
    blocked = "NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    return session.scalar(text(f"SELECT count(*) FROM pg_locks WHERE {blocked}")) or 0


def choose_databases(metafunc: pytest.Metafunc, fixture: str) -> None:
    """Run on SQLite, and on Postgres too what is marked: locks, JSON, sums, time, cascades. A test
    may name its database itself.
    """
    named = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if fixture in metafunc.fixturenames and fixture not in named:
        both = metafunc.definition.get_closest_marker("both_databases")
        databases = ["sqlite", "postgres"] if both else ["sqlite"]
        metafunc.parametrize(fixture, databases, indirect=True)
