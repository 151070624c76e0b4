"""Which of the two databases a test runs on."""

import itertools
from pathlib import Path

import pytest

from tests.support.postgres import PostgresServer

_numbers = itertools.count()


def create_database(request: pytest.FixtureRequest, folder: Path) -> str:
    """Return the address of an empty one of the kind that the fixture's parameter names."""
    if request.param == "sqlite":
        return f"sqlite:///{folder / 'falqon.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create_database(f"test_{next(_numbers)}")


def choose_databases(metafunc: pytest.Metafunc, fixture: str) -> None:
    """Run on SQLite, and on Postgres too what is marked: locks, JSON, sums, time, cascades."""
    if fixture in metafunc.fixturenames:
        both = metafunc.definition.get_closest_marker("both_databases")
        databases = ["sqlite", "postgres"] if both else ["sqlite"]
        metafunc.parametrize(fixture, databases, indirect=True)
