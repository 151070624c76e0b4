"""`falqon up` as a user runs it: a process of its own with everything below it; or `forked`, where
the way it starts is not what is tested.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
from openai import OpenAI

from tests.support.backend import FAKE_TRAINER, ROOT
from tests.support.forked_up import PROCESS_NAME, run_up
from tests.support.forks import Fork
from tests.support.waiting import wait_for

KEY = "a-key-for-tests-0123456789"
# Patience: its processes import their libraries, in 8 s on two free cores and 16 on two busy ones.
START_SECONDS = 180
STOP_SECONDS = 30


class Service:
    """With `forked`, `pids` finds what it starts in Python by no word."""

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        *,
        fake: bool = True,
        forked: bool = False,
    ) -> None:
        self.folder = folder
        self.forked = forked
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        # Nothing but our key may look like it belongs to the service around us.
        outside = {
            name: value for name, value in os.environ.items() if not name.startswith("FALQON_")
        }
        self.environment = (
            outside
            | {"FALQON_ADMIN_KEY": KEY, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            | {"FALQON_CALIBRATE": "false"}
            | dict(environment or {})
        )
        self.key = self.environment["FALQON_ADMIN_KEY"]
        self.client = OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=5)
        if fake:
            self.environment["FALQON_TRAINER_COMMAND"] = json.dumps(FAKE_TRAINER)
        self.output = folder.with_name(f"{folder.name}.out")
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes] | Fork:
        # A service of this folder that has ended may have written there before.
        self._num_written_before = self.output.stat().st_size if self.output.exists() else 0
        arguments = ["up", "--port", str(self.port), "--data-dir", str(self.folder)]
        if self.forked:
            parent = self.folder.parent
            self.output.touch()
            environment = self.environment | {PROCESS_NAME: self._process_name}
            return Fork(run_up, arguments, parent, environment=environment, output=self.output)
        with self.output.open("ab") as output:
            return subprocess.Popen(
                self.command(*arguments),
                env=self.environment,
                cwd=self.folder.parent,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @staticmethod
    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "app.cli", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = self.environment | {"FALQON_DATA_DIR": str(self.folder)}
        return subprocess.run(
            self.command(*arguments),
            env=environment,
            cwd=self.folder.parent,
            capture_output=True,
            text=True,
            check=False,
        )

    def wait_until_up(self) -> None:
        try:
            wait_for(
                lambda: b"FALQON is up" in self._written() or self.process.poll() is not None,
                START_SECONDS,
                "the service is up",
            )
            assert self.process.poll() is None, self.output.read_text()
        except BaseException:
            self.close()  # A fixture that waits here has not handed it out yet.
            raise

    def _written(self) -> bytes:
        return self.output.read_bytes()[self._num_written_before :]

    def ready(self) -> str | None:
        try:
            return str(httpx.get(f"{self.url}/readyz", timeout=2).json()["status"])
        except (httpx.HTTPError, ValueError):
            return None

    def pids(self, *words: str) -> list[int]:
        """Return what runs for this service, or what of it has these words on its command line."""
        return [
            pid
            for pid in _processes()
            if self._mine(pid) and all(word in _read(pid, "cmdline") for word in words)
        ]

    def _mine(self, pid: int) -> bool:
        return (
            str(self.folder) in _read(pid, "cmdline")
            or f"FALQON_DATA_DIR={self.folder}" in _read(pid, "environ")
            or self._process_name == _read(pid, "comm").strip()
        )

    @property
    def _process_name(self) -> str:
        return f"falqon-{self.port}"

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)

    def close(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _processes() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]


def _read(pid: int, name: str) -> str:
    """Empty for a process that has ended."""
    try:
        return (Path("/proc") / str(pid) / name).read_bytes().decode(errors="replace")
    except OSError:
        return ""
