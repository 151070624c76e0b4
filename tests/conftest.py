import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from app import migrate
from app.database import Database
from tests.chaos.summary import pytest_terminal_summary as pytest_terminal_summary
from tests.support.postgres import PostgresServer
from tests.support.valkey import Valkey

# Before anything imports Triton: where no GPU is, its kernels run in the interpreter.
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"

_numbers = itertools.count()


class Scheduling(LoadFileScheduling):
    """A file of tests stays with one process, and with tests/chaos all that use one of the two databases: most of their time is waiting."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith("tests/chaos/"):
            return f"tests/chaos on {'sqlite' if 'sqlite' in nodeid else 'postgres'}"
        return str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    return Scheduling(config, log)


@pytest.fixture(scope="session")
def short_tmp() -> Iterator[Path]:
    """A folder with a short name, for Unix sockets, that other users may enter."""
    folder = Path(tempfile.mkdtemp(prefix="fq-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(short_tmp: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(short_tmp / "pg")
    yield server
    server.stop(signal.SIGQUIT)  # nothing in it is worth a clean end


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, empty database on each of the two we support."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'falqon.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create_database(f"test_{next(_numbers)}")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    migrate.upgrade(database)
    yield database
    database.dispose()


@pytest.fixture
def valkey(short_tmp: Path) -> Iterator[Valkey]:
    server = Valkey(short_tmp / f"valkey{next(_numbers)}")
    yield server
    server.kill()
