"""`falqon up`: the whole service on one machine. Valkey, the API, one worker for jobs and one for files, under one roof."""

import fcntl
import ipaddress
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from rich.console import Console
from rich.panel import Panel

from app.client import local
from app.http.server import raise_open_files
from app.installation import Mismatch
from app.keys.service import WeakAdminKey
from app.local import valkey
from app.local.bootstrap import NotPrepared, key_for_this_machine, prepare, sign_in_link
from app.notifier.broker import CPU_QUEUE, GPU_QUEUE, worker_command
from app.processes.supervised_process import Child, say
from app.settings import Settings, load_settings

EXIT_REFUSED = 2
EXIT_ALREADY_UP = 3
EXIT_FAILED = 1
TICK_SECONDS = 0.2
READY_SECONDS = 60.0
STOP_SECONDS = 30.0  # longer than a trainer gets to write its checkpoint
GRACEFUL_REQUESTS_SECONDS = 5
# One machine that watches itself can notice a dead worker sooner than a fleet should.
PACE = {"FALQON_LEASE": "PT15S", "FALQON_HEARTBEAT": "PT3S", "FALQON_POLL": "PT2S", "FALQON_STOP_GRACE": "PT20S"}
LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}


class NotStarted(Exception):
    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def up(host: str, port: int, data_dir: Path | None, allow_remote: bool) -> int:
    """Serve until SIGTERM or Ctrl-C; returns the exit code."""
    try:
        if not allow_remote and not _is_loopback(host):
            raise NotStarted(f"{host} can be reached from other machines; add --allow-remote if that is what you want.", EXIT_REFUSED)
        os.environ.update({name: value for name, value in PACE.items() if name not in os.environ})
        if data_dir is not None:
            os.environ["FALQON_DATA_DIR"] = str(data_dir)
        settings = load_settings()
        folder = settings.data_dir.resolve()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        os.environ["FALQON_DATA_DIR"] = str(folder)
        if not settings.hosts and not allow_remote:
            os.environ["FALQON_HOSTS"] = json.dumps(sorted({*LOOPBACK_NAMES, host}))
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        raise_open_files()
        with _only_one(folder, url):
            _refuse_taken_port(host, port)
            return Embedded(settings, host, port, url).serve()
    except (NotPrepared, NotStarted, valkey.ValkeyMissing, WeakAdminKey, Mismatch) as error:
        say(str(error))
        return error.exit_code if isinstance(error, NotStarted) else EXIT_FAILED


class Embedded:
    def __init__(self, settings: Settings, host: str, port: int, url: str) -> None:
        self._settings = settings
        self._url = url
        self._folder = settings.data_dir.resolve()
        self._logs = self._folder / "logs"
        self._logs.mkdir(mode=0o700, exist_ok=True)
        self._stops_asked = 0
        self._valkey = [] if settings.redis_url else [self._child("valkey", valkey.command(settings))]
        serve = ["--host", host, "--port", str(port), "--grace", str(GRACEFUL_REQUESTS_SECONDS)]
        self._api = self._child("api", [sys.executable, "-m", "app.cli", "api", *serve])
        self._workers = [self._child(f"worker-{queue}", worker_command(queue)) for queue in (GPU_QUEUE, CPU_QUEUE)]

    def serve(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_stop)
        try:
            secret, link = self._start()
            if not self._stops_asked:
                self._welcome(secret, link)
            while not self._stops_asked:
                for child in (*self._valkey, self._api, *self._workers):
                    child.look_after()
                time.sleep(TICK_SECONDS)
            return 0
        finally:
            self._stop()

    def _start(self) -> tuple[str | None, str]:
        """The API key where one was generated, and a link that signs in."""
        for child in self._valkey:
            child.start()
            valkey.wait_until_ours(self._settings, child)
        secret = prepare(self._settings)
        key = key_for_this_machine(self._settings, secret)
        local.write(self._folder, local.LocalService(self._url, key))
        for child in (self._api, *self._workers):
            child.start()
        self._wait_until_ready()
        return secret, sign_in_link(self._settings, self._url, key)

    def _is_ready(self) -> bool:
        try:
            with urlopen(f"{self._url}/readyz", timeout=2) as answer:
                return bool(answer.status == HTTPStatus.OK)
        except (URLError, OSError):
            return False

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not self._stops_asked and not self._is_ready():
            if not self._api.alive() or time.monotonic() > deadline:
                raise NotStarted(f"The API did not become ready; see {self._logs / 'api.log'}.")
            time.sleep(0.1)

    def _welcome(self, secret: str | None, link: str) -> None:
        if secret is not None:
            key = f"{secret}\n           shown this once; keep it"
        elif self._settings.admin_key is not None:
            key = "the one in FALQON_ADMIN_KEY"
        else:
            key = "made earlier; `falqon keys create NAME` makes another"
        lines = [f"Dashboard  {self._url}", f"API        {self._url}/v1", f"API key    {key}", f"Data       {self._folder}"]
        console = Console(soft_wrap=True)
        console.print(Panel.fit("\n".join(lines), title="FALQON is up", subtitle="Ctrl-C stops it"), highlight=False)
        console.print(f"Signs you in once, within the hour: {link}", highlight=False)  # outside: a panel would cut it

    def _on_stop(self, *_: object) -> None:
        self._stops_asked += 1

    def _stop(self) -> None:
        """Workers first hand back what they execute, so Valkey goes last. A second Ctrl-C kills."""
        for group in ([*self._workers, self._api], self._valkey):
            for child in group:
                child.signal(signal.SIGTERM)
            deadline = time.monotonic() + STOP_SECONDS
            while any(child.alive() for child in group) and self._stops_asked < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
            for child in group:
                child.kill_group()

    def _child(self, name: str, command: list[str]) -> Child:
        return Child(name, command, os.environ, self._logs)


@contextmanager
def _only_one(folder: Path, url: str) -> Iterator[None]:
    """One service per data folder; the kernel drops the lock when its holder dies, however it dies."""
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise NotStarted(
                f"{folder} is served already, by {file.read().strip() or 'a service that is starting'}.", EXIT_ALREADY_UP
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} at {url}\n")
        file.flush()
        yield


def _refuse_taken_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise NotStarted(f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --port.") from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
