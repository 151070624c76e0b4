"""One version of the service as an operator runs it: its code in a folder, its commands, each a
process. Several of them share a database, a storage and a Redis.
"""

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
from openai import OpenAI

from tests.support.forks import ROOT
from tests.support.service import KEY, free_port
from tests.support.waiting import wait_for

PACKAGES = ("app", "falqon_core", "migrations", "worker", "tests/__init__.py", "tests/support")
START_SECONDS = 300.0
END_SECONDS = 180.0


class NoHistory(Exception):
    """With the reason why no earlier code can be had."""


class Release:
    """`prefix` begins each command line, as `ip netns exec NAME` does."""

    def __init__(
        self,
        code: Path,
        folder: Path,
        environment: Mapping[str, str],
        *,
        host: str = "127.0.0.1",
        prefix: Sequence[str] = (),
    ) -> None:
        folder.mkdir()
        trainer = [sys.executable, str(code / "tests" / "support" / "fake_trainer.py")]
        self._code = code
        self._folder = folder
        self._prefix = list(prefix)
        self._environment = {
            "FALQON_TRAINER_COMMAND": json.dumps(trainer),
            **environment,
            "FALQON_DATA_DIR": str(folder),
            "TMPDIR": str(folder),  # where the locks of a machine's cards are
            "PYTHONPATH": str(code),
        }
        self._host = host
        self.port = free_port()
        self.url = f"http://{host}:{self.port}"
        self.client = OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=5)
        self.api: subprocess.Popen[bytes] | None = None
        self.workers: dict[str, subprocess.Popen[bytes]] = {}

    def migrate(self) -> None:
        self.run("migrate")

    def run(self, *arguments: str) -> str:
        """Return what a command of this version prints."""
        done = subprocess.run(
            [*self._prefix, *self._falqon(*arguments)],
            env=self._environment,
            cwd=self._code,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command of this version, whose output has the name."""
        return self._start(name, self._falqon(*arguments))

    def start_api(self) -> None:
        options = ["--host", self._host, "--port", str(self.port), "--grace", "5"]
        self.api = self._start("api", self._falqon("api", *options))

    def start_worker(self, queue: str) -> None:
        """`queue`: one, or both with a comma."""
        self.workers[queue] = self._start_by("worker_command", f"worker-{queue}", queue)

    def start_joined_worker(self, url: str) -> None:
        """Start one that sees only the API at `url`; its token is in the environment."""
        self.workers["joined"] = self._start_by("joined_command", "worker-joined", url)

    def wait_until_up(self) -> None:
        wait_for(self.database_verdict, START_SECONDS, f"{self._folder.name} is up")

    def database_verdict(self) -> str | None:
        """Return what /readyz says of the database; None while nobody answers."""
        try:
            answer = httpx.get(f"{self.url}/readyz", timeout=30)
        except httpx.TransportError:
            assert self.api is not None
            assert self.api.poll() is None, self.output("api")
            return None
        verdict: str = answer.json()["checks"]["database"]
        return verdict

    def output(self, process: str) -> str:
        return (self._folder / f"{process}.out").read_text()[-3000:]

    def drain_workers(self) -> None:
        """As a rolling upgrade ends them: each hands back the job that it has."""
        for worker in self.workers.values():
            worker.terminate()
        for queue, worker in self.workers.items():
            assert worker.wait(END_SECONDS) == 0, self.output(f"worker-{queue}")

    def stop_api(self) -> None:
        assert self.api is not None
        self.api.terminate()
        self.api.wait(END_SECONDS)

    def close(self) -> None:
        self.client.close()
        for process in filter(None, [self.api, *self.workers.values()]):
            if process.poll() is None:
                process.kill()
            process.wait()

    def _falqon(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "app.cli", *arguments]

    def _start_by(self, function: str, name: str, argument: str) -> subprocess.Popen[bytes]:
        """Start the program whose command a function of this version's code gives."""
        program = (
            f"import os, sys; from app.notifier.queues import {function}; "
            f"command = {function}(sys.argv[1]); os.execv(command[0], command)"
        )
        return self._start(name, [sys.executable, "-c", program, argument])

    def _start(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.out").open("ab") as output:
            return subprocess.Popen(
                [*self._prefix, *command],
                env=self._environment,
                cwd=self._code,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )


def unpack_earlier_code(folder: Path) -> None:
    """Unpack the newest commit before this code's newest migration, which may have come by a merge.
    Raises `NoHistory`.
    """
    newest = max((ROOT / "migrations" / "versions").glob("[0-9]*.py")).relative_to(ROOT)
    of_main = ("log", "-1", "-m", "--first-parent", "--no-renames", "--diff-filter=A")
    added = _git(*of_main, "--format=%H", "--", str(newest)).decode().strip()
    commit = f"{added}^" if added else "HEAD"  # a migration that is not committed yet
    archive = _git("archive", "--format=tar", commit, *PACKAGES)
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")


def _git(*arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    except FileNotFoundError:
        raise NoHistory("there is no git") from None
    if done.returncode != 0:
        raise NoHistory(done.stderr.decode(errors="replace").strip().partition("\n")[0])
    return done.stdout
