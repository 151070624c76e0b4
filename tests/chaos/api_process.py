"""The API in a process of its own, there to be killed."""

import multiprocessing
import os
import socket
from collections.abc import Mapping
from pathlib import Path

import httpx

from tests.support.house import House
from tests.support.waiting import wait_for

# Forks of a process that has imported the API: starting one again takes no second.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["app.main", "pytest", __name__])


class ApiProcess:
    """On the house's database, storage and Redis. Its port outlives it: bound here, so that nobody else gets it meanwhile."""

    def __init__(self, house: House) -> None:
        self._environment = house.environment()
        self._output = house.settings.data_dir / "api.log"
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))  # never listens: while no API does, connections are refused
        self._port: int = self._held.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.process = self.start()

    def start(self, environment: Mapping[str, str] | None = None) -> "multiprocessing.process.BaseProcess":
        arguments = (self._port, self._environment | dict(environment or {}), self._output)
        self.process = _PROCESSES.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        wait_for(self._answers, 30, f"the API is up; see {self._output}")
        return self.process

    def kill(self) -> None:
        assert self.process.is_alive(), "there is nothing to kill"
        self.process.kill()
        self.process.join()

    def close(self) -> None:
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self._held.close()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", timeout=5).is_success
        except httpx.TransportError:
            assert self.process.is_alive(), self._output.read_text()[-3000:]
            return False


def _serve(port: int, environment: Mapping[str, str], output: Path) -> None:
    import uvicorn

    from app.main import create_app
    from app.settings import Settings
    from falqon_core.spec import faults

    with output.open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    os.environ.update(environment)
    faults.arm(environment.get("FAULT_POINTS", ""), environment.get("FAULT_MARKS", ""))
    uvicorn.run(create_app(Settings(_env_file=None)), host="127.0.0.1", port=port, log_config=None)
