import gc
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
from xdist.workermanage import WorkerController

from app.base.database import Database
from tests.chaos.summary import pytest_terminal_summary as pytest_terminal_summary
from tests.support.databases import create_database
from tests.support.postgres import PostgresServer
from tests.support.schema import migrate_database
from tests.support.scratch import choose_scratch
from tests.support.valkey import Valkey

# Before anything imports Triton: where no GPU is, its kernels run in the interpreter.
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"

SCRATCH = choose_scratch()
NUM_DURATIONS = 50
WAITING = ("tests/chaos", "tests/app/client")
SHARING = ("tests/app/client/", "tests/app/inference/", "tests/e2e/")  # a service or an engine
_numbers = itertools.count()


class Scheduling(LoadFileScheduling):
    """A file of tests stays with one process; so do the tests of a folder that share what is
    started for them, and with tests/chaos all that use one of the two databases. Faults and the
    command line wait most of their time: the first process takes them before all others, beside
    those that compute.
    """

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith("tests/chaos/"):
            return f"tests/chaos on {'sqlite' if 'sqlite' in nodeid else 'postgres'}"
        folder = next((folder for folder in SHARING if nodeid.startswith(folder)), None)
        return folder or str(super()._split_scope(nodeid))

    def _assign_work_unit(self, node: WorkerController) -> None:
        is_first = node is self.nodes[0]
        preferred = (scope for scope in self.workqueue if scope.startswith(WAITING) == is_first)
        if (scope := next(preferred, None)) is not None:
            self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    return Scheduling(config, log)


def pytest_collection_finish() -> None:
    """Python's collector need not look again and again at the modules of torch and the tests: that
    was 8 % of the time.
    """
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave the longest durations in `.pytest_cache/durations.txt`."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:  # a process of pytest-xdist
        return
    kinds = ("passed", "failed", "error")
    reports = [report for kind in kinds for report in reporter.getreports(kind)]
    reports = [report for report in reports if isinstance(report, pytest.TestReport)]
    reports.sort(key=lambda report: report.duration, reverse=True)
    lines = [f"{report.duration:8.2f} {report.when:8} {report.nodeid}\n" for report in reports]
    folder = session.config.rootpath / ".pytest_cache"
    folder.mkdir(exist_ok=True)
    (folder / "durations.txt").write_text("".join(lines[:NUM_DURATIONS]))


@pytest.fixture(scope="session")
def short_tmp() -> Iterator[Path]:
    """A folder with a short name, for Unix sockets, that other users may enter."""
    folder = Path(tempfile.mkdtemp(prefix="fq-", dir=SCRATCH))
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
    """A fresh database on each of the two we support, for `migrate_database`."""
    return create_database(request, tmp_path)


@pytest.fixture(params=["sqlite", "postgres"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return create_database(request, tmp_path, empty=True)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    migrate_database(database)
    yield database
    database.dispose()


@pytest.fixture
def valkey(short_tmp: Path) -> Iterator[Valkey]:
    server = Valkey(short_tmp / f"valkey{next(_numbers)}")
    yield server
    server.kill()
