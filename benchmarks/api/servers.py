"""What the load falls on: Postgres, Valkey and uvicorn, each a process that ends with us."""

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.base.processes.parent_death import command_dying_with_parent
from app.base.processes.supervised_process import say
from app.base.settings import Settings
from app.local.bootstrap import prepare
from tests.support.postgres import PostgresServer
from tests.support.valkey import Valkey

ROOT = Path(__file__).resolve().parents[2]
LISTENS = re.compile(r"http://127\.0\.0\.1:(\d+)")
START_SECONDS = 60
STOP_SECONDS = 20
SERVE = "import sys; from app.http.server import serve; serve('127.0.0.1', 0, 5, sys.argv[1])"
KEY = "a-key-for-the-load-benchmark"
# The benchmark is one very busy user; what one user may ask in a minute is not what it measures.
REQUESTS_PER_MINUTE = 1_000_000


@dataclass(frozen=True, slots=True)
class LoadServices:
    """Database and Valkey, prepared for the service."""

    settings: Settings
    folder: Path
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Server:
    port: int
    pid: int

    @property
    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    @property
    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def services() -> Iterator[LoadServices]:
    folder = Path(tempfile.mkdtemp(prefix="fq-load-"))
    folder.chmod(0o755)  # Postgres may run as another user
    try:
        postgres = PostgresServer(folder / "pg", durable=True)
        valkey = Valkey(folder / "data")
        try:
            settings = Settings(
                _env_file=None,
                database_url=postgres.create_database("load"),
                data_dir=folder / "data",
                redis_url="",
            )
            # Nothing but what is said here may reach the service: it reads FALQON_… and a file .env
            # where it is started.
            outside = {
                name: value for name, value in os.environ.items() if not name.startswith("FALQON_")
            }
            ours = {
                "PYTHONPATH": str(ROOT),
                "DATABASE_URL": settings.resolved_database_url,
                "REDIS_URL": settings.resolved_redis_url,
                "FALQON_DATA_DIR": str(settings.data_dir),
                "FALQON_ADMIN_KEY": KEY,
                "FALQON_REQUESTS_PER_MINUTE": str(REQUESTS_PER_MINUTE),
            }
            prepare(settings)
            yield LoadServices(settings, folder, outside | ours)
        finally:
            valkey.kill()
            postgres.stop(signal.SIGINT)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def served(services: LoadServices, app: str) -> Iterator[Server]:
    """uvicorn as `falqon api` starts it, on a port that the kernel chooses."""
    log = services.folder / f"{app}.log"
    command = [sys.executable, "-c", SERVE, app]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command_dying_with_parent(command),
            env=services.environment,
            cwd=services.folder,
            stdout=output,
            stderr=output,
        )
    try:
        yield Server(_port(process, log), process.pid)
    except BaseException:
        say(log.read_text()[-3000:])
        raise
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + START_SECONDS
    while not (match := LISTENS.search(log.read_text())):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the server did not start")
        time.sleep(0.05)
    return int(match[1])
