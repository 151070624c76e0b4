from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from app.base.database import Database
from tests.support.backend import Backend
from tests.support.databases import choose_databases, create_database
from tests.support.fixtures import store as store
from tests.support.schema import migrate_database

# No busy machine loses it; who waits for the end of one sets another.
LEASE = timedelta(seconds=60)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    choose_databases(metafunc, "database_url")


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return create_database(request, tmp_path)


@pytest.fixture
def backend(tmp_path: Path, database: Database, database_url: str) -> Iterator[Backend]:
    backend = Backend(tmp_path / "data", database, database_url)
    backend.settings = backend.settings.model_copy(update={"lease": LEASE})
    yield backend
    backend.close()


@pytest.fixture
def embedded_backend(tmp_path: Path) -> Iterator[Backend]:
    url = f"sqlite:///{tmp_path / 'data' / 'falqon.db'}"
    database = Database(url)
    migrate_database(database)
    backend = Backend(tmp_path / "data", database, url)
    backend.settings = backend.settings.model_copy(update={"lease": LEASE})
    yield backend
    backend.close()
    database.dispose()
