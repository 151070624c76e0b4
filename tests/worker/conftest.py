from collections.abc import Iterator
from pathlib import Path

import pytest

from app import migrate
from app.database import Database
from tests.support.house import House


@pytest.fixture
def house(tmp_path: Path, database: Database, database_url: str) -> Iterator[House]:
    """On each of the two databases."""
    house = House(tmp_path / "data", database, database_url)
    yield house
    house.close()


@pytest.fixture
def embedded_house(tmp_path: Path) -> Iterator[House]:
    url = f"sqlite:///{tmp_path / 'data' / 'falqon.db'}"
    database = Database(url)
    migrate.upgrade(database)
    house = House(tmp_path / "data", database, url)
    yield house
    house.close()
    database.dispose()
