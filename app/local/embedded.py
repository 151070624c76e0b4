"""`falqon up`: the whole service on one machine. Valkey, the API, workers for jobs (one a
card) and one for files, under one roof.
"""

import errno
import fcntl
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

from rich.console import Console
from rich.panel import Panel

from app.base import env_file
from app.base.processes.child_process import ChildProcess
from app.base.processes.device import training_cards
from app.base.processes.open_files import raise_open_files
from app.base.processes.supervised_process import SupervisedProcess, say
from app.base.settings import Settings, load_settings
from app.client import local
from app.local import valkey
from app.notifier.queues import CPU_QUEUE, GPU_QUEUE, worker_command

EXIT_REFUSED = 2
EXIT_ALREADY_UP = 3
EXIT_FAILED = 1
PROCESS_POLL_SECONDS = 0.2
READY_SECONDS = 180.0  # Patience for a busy machine; an API that has died is told at once.
STOP_SECONDS = 30.0  # Longer than a trainer gets to write its checkpoint.
GRACEFUL_REQUESTS_SECONDS = 5
# One machine that watches itself can notice a dead worker sooner than a fleet should.
EMBEDDED_DURATIONS = {
    "FALQON_LEASE": "PT15S",
    "FALQON_HEARTBEAT": "PT3S",
    "FALQON_POLL": "PT2S",
    "FALQON_STOP_GRACE": "PT20S",
}
PORT_ERRORS = (errno.EADDRINUSE, errno.EACCES)
# Without the proxies that the environment names: the API is on this machine.
DIRECT = build_opener(ProxyHandler({}))


class NotStarted(Exception):
    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Prepared:
    """`generated`: the API key, if one was made just now; `link` signs in, once."""

    generated: str | None
    key: str
    link: str


def up(host: str, port: int, data_dir: Path | None, allow_remote: bool) -> int:
    """Serve until SIGTERM or Ctrl-C; returns the exit code."""
    try:
        if not allow_remote and not _is_loopback(host):
            raise NotStarted(
                f"{host} can be reached from other machines; add --allow-remote if that is what "
                "you want.",
                EXIT_REFUSED,
            )
        env_file.read_into(os.environ)
        os.environ.update(
            {name: value for name, value in EMBEDDED_DURATIONS.items() if name not in os.environ}
        )
        if data_dir is not None:
            os.environ["FALQON_DATA_DIR"] = str(data_dir)
        settings = load_settings()
        folder = _private_folder(settings.data_dir.resolve())
        os.environ["FALQON_DATA_DIR"] = str(folder)
        if settings.hosts or not allow_remote:
            os.environ["FALQON_HOSTS"] = json.dumps(sorted({*settings.hosts, host}))
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        raise_open_files()
        with _only_one(folder, url):
            _refuse_taken_port(host, port)
            return Embedded(settings, host, port, url).serve()
    except (NotStarted, valkey.ValkeyMissing) as error:
        say(str(error))
        if isinstance(error, NotStarted):
            return error.exit_code
        return EXIT_FAILED


class Embedded:
    def __init__(self, settings: Settings, host: str, port: int, url: str) -> None:
        self._settings = settings
        self._url = url
        self._folder = settings.data_dir.resolve()
        self._logs = self._folder / "logs"
        self._logs.mkdir(mode=0o700, exist_ok=True)
        self._stops_asked = 0
        self._valkey = (
            [] if settings.redis_url else [self._child("valkey", valkey.command(settings))]
        )
        serve = ["--host", host, "--port", str(port), "--grace", str(GRACEFUL_REQUESTS_SECONDS)]
        self._api = self._child("api", [sys.executable, "-m", "app.cli", "api", *serve])
        self._workers = [
            *self._gpu_workers(len(training_cards(settings))),
            self._child("worker-cpu", worker_command(CPU_QUEUE)),
        ]

    def serve(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_stop)
        try:
            prepared = self._start()
            if not self._stops_asked:
                self._welcome(prepared)
            while not self._stops_asked:
                for child in (*self._valkey, self._api, *self._workers):
                    child.restart_if_ended()
                time.sleep(PROCESS_POLL_SECONDS)
            return 0
        finally:
            self._stop()

    def _start(self) -> Prepared:
        for child in self._valkey:
            child.start()
            valkey.wait_until_ours(self._settings, child)
        prepared = _prepare(self._url)
        local.write(self._folder, local.LocalService(self._url, prepared.key))
        for child in (self._api, *self._workers):
            child.start()
        self._wait_until_ready()
        return prepared

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not self._stops_asked and not is_ready(self._url):
            if not self._api.is_alive() or time.monotonic() > deadline:
                raise NotStarted(f"The API did not become ready; see {self._logs / 'api.log'}.")
            time.sleep(0.1)

    def _welcome(self, prepared: Prepared) -> None:
        if prepared.generated is not None:
            key = f"{prepared.generated}\n           shown this once; keep it"
        elif self._settings.admin_key is not None:
            key = "the one in FALQON_ADMIN_KEY"
        else:
            key = "made earlier; `falqon keys create NAME` makes another"
        lines = [
            f"Dashboard  {self._url}",
            f"API        {self._url}/v1",
            f"API key    {key}",
            f"Data       {self._folder}",
        ]
        console = Console(soft_wrap=True)
        console.print(
            Panel.fit("\n".join(lines), title="FALQON is up", subtitle="Ctrl-C stops it"),
            highlight=False,
        )
        # Outside of the panel, which would cut it.
        console.print(f"Signs you in once, within the hour: {prepared.link}", highlight=False)

    def _on_stop(self, *_: object) -> None:
        self._stops_asked += 1

    def _stop(self) -> None:
        """Stop them; workers first requeue what they execute, so Valkey goes last. A second Ctrl-C
        kills.
        """
        for group in ([*self._workers, self._api], self._valkey):
            for child in group:
                child.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + STOP_SECONDS
            while (
                any(child.is_alive() for child in group)
                and self._stops_asked < 2
                and time.monotonic() < deadline
            ):
                time.sleep(0.05)
            for child in group:
                child.close()

    def _gpu_workers(self, num_cards: int) -> list[SupervisedProcess]:
        """Make one worker a card; each job takes one that no other has."""
        names = [f"worker-gpu-{number}" for number in range(num_cards)]
        if num_cards < 2:
            names = ["worker-gpu"]
        return [self._child(name, worker_command(GPU_QUEUE)) for name in names]

    def _child(self, name: str, command: list[str]) -> SupervisedProcess:
        return SupervisedProcess(name, command, os.environ, self._logs)


def is_ready(url: str) -> bool:
    """Return True if the service serves: also with a full disk, on which a user can then make
    room.
    """
    try:
        with DIRECT.open(f"{url}/readyz", timeout=2) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except HTTPError as refusal:
        with refusal:
            return _has_database(refusal)
    except (URLError, OSError):
        return False


def _has_database(refusal: HTTPError) -> bool:
    try:
        return bool(json.load(refusal)["checks"]["database"] == "ok")
    except (ValueError, KeyError, TypeError, OSError):
        return False


def _private_folder(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise NotStarted(
            f"{folder} cannot be the data folder: {error.strerror}. Choose another --data-dir."
        ) from None
    return folder


@contextmanager
def _only_one(folder: Path, url: str) -> Iterator[None]:
    """Lock the data folder for one service; the kernel drops the lock when the holder dies."""
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise NotStarted(
                f"{folder} is served already, by "
                f"{file.read().strip() or 'a service that is starting'}.",
                EXIT_ALREADY_UP,
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} at {url}\n")
        file.flush()
        yield


def _prepare(url: str) -> Prepared:
    """Make what must be there before the first request."""
    command = [sys.executable, "-m", "app.local.bootstrap", url]
    with ChildProcess(
        command, os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        output, errors = process.communicate()
    if process.returncode != 0:
        raise NotStarted(errors.decode(errors="replace").strip())
    return Prepared(**json.loads(output))


def _refuse_taken_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            option = "--port" if error.errno in PORT_ERRORS else "--host"
            raise NotStarted(
                f"Cannot listen on {host}:{port}: {error.strerror}. Choose another {option}."
            ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
