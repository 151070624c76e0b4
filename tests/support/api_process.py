"""The API as a process of its own, without a worker and without Redis, that may be killed and come
back at the same address.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import httpx

from app.base.database import Database
from app.base.settings import Settings
from app.base.storage import Storage
from app.models import Artifact, Model
from tests.support.api import NOTHING_LISTENS, TINY_CONFIG
from tests.support.backend import ROOT
from tests.support.forks import Fork, run_falqon
from tests.support.schema import migrate_database
from tests.support.service import START_SECONDS, free_port
from tests.support.waiting import wait_for

KEY = "an-admin-key-for-this-test"


class ApiProcess:
    """One that is `forked` starts ten times faster; what it holds in memory tells nothing."""

    def __init__(
        self, folder: Path, environment: Mapping[str, str] | None = None, *, forked: bool = False
    ) -> None:
        settings = Settings(_env_file=None, data_dir=folder, **_storage(environment or {}))
        self.database = Database(settings.resolved_database_url)
        migrate_database(self.database)
        self.storage = Storage(settings.resolved_storage_url)
        self._environment = os.environ | {
            "FALQON_DATA_DIR": str(folder),
            "REDIS_URL": NOTHING_LISTENS,
            "FALQON_ADMIN_KEY": KEY,
        }
        self._environment |= {"PYTHONPATH": str(ROOT)} | dict(environment or {})
        self._environment.pop("DATABASE_URL", None)
        folder.mkdir(exist_ok=True)
        self._forked = forked
        self._log = folder / "api.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(
            base_url=self.url, headers={"authorization": f"Bearer {KEY}"}, timeout=120, verify=False
        )
        self.start()

    def start(self) -> None:
        self._process = self._fork() if self._forked else self._open()
        try:
            wait_for(self._is_up, START_SECONDS, "the API is up")
        except BaseException:
            self.kill()
            raise

    def _fork(self) -> Fork:
        return Fork(
            _serve, self._log.parent, self.port, environment=self._environment, output=self._log
        )

    def _open(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "app.cli", "api", "--port", str(self.port)]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command, env=self._environment, cwd=self._log.parent, stderr=log, stdout=log
            )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        self.http.close()
        self.database.dispose()

    def forget_peak(self) -> None:
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        """The most memory that it held since the start, or since the peak was forgotten."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])  # type: ignore[index]

    def add_model(self, model_id: str, files: Mapping[str, Iterable[bytes]]) -> None:
        stored = {
            name: self.storage.put(f"models/{model_id}/{name}", chunks)
            for name, chunks in files.items()
        }
        with self.database.transaction() as session:
            session.add(
                Model(
                    id=model_id,
                    config=TINY_CONFIG,
                    bytes=sum(file.bytes for file in stored.values()),
                )
            )
            session.flush()
            session.add_all(
                Artifact(
                    model_id=model_id,
                    name=name,
                    storage_key=f"models/{model_id}/{name}",
                    **file._asdict(),
                )
                for name, file in stored.items()
            )

    def _is_up(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        with suppress(httpx.ConnectError):
            return self.http.get("/healthz").status_code == 200
        return False


def _serve(folder: Path, port: int) -> None:
    os.chdir(folder)
    sys.modules.pop("app.main", None)  # which reads the environment as it is imported
    run_falqon(["api", "--port", str(port)])


def _storage(environment: Mapping[str, str]) -> dict[str, str]:
    return {"storage_url": environment["STORAGE_URL"]} if "STORAGE_URL" in environment else {}
