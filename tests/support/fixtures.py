"""Fixtures that several folders of tests share; a conftest imports those that its tests use."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.base.database import Database
from tests.support.api import Api, Tenant
from tests.support.backend import Backend
from tests.support.object_store import ObjectStore
from tests.support.receiver import Receiver, receiving


@pytest.fixture
def backend(tmp_path: Path, database: Database, database_url: str) -> Iterator[Backend]:
    """A service without its API, on the database that the test asks for."""
    backend = Backend(tmp_path / "data", database, database_url)
    yield backend
    backend.close()


@pytest.fixture
def tenant(api: Api) -> Iterator[Tenant]:
    tenant = Tenant(api)
    yield tenant
    tenant.http.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    store = ObjectStore()
    yield store
    store.close()
