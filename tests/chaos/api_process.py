"""The API in a process of its own, there to be killed."""

import socket
from collections.abc import Mapping

import httpx

from tests.support.backend import Backend
from tests.support.forks import Fork
from tests.support.waiting import wait_for

TICK_SECONDS = 1.0  # of the reconciler, which as a rule takes five times as long


class ApiProcess:
    """On the backend's database, storage and Redis. Its port outlives it: bound here, so that
    nobody else gets it meanwhile.
    """

    def __init__(self, backend: Backend, environment: Mapping[str, str] | None = None) -> None:
        self._environment = backend.environment()
        self._output = backend.settings.data_dir / "api.log"
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # never listens: while no API does, connections are refused
        self._held.bind(("127.0.0.1", 0))
        self._port: int = self._held.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.process = self.start(environment)

    def start(self, environment: Mapping[str, str] | None = None) -> Fork:
        self.process = Fork(
            _serve,
            self._port,
            environment=self._environment | dict(environment or {}),
            output=self._output,
        )
        wait_for(self._answers, what=f"the API is up; see {self._output}")
        return self.process

    def kill(self) -> None:
        assert self.process.poll() is None, "there is nothing to kill"
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._held.close()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", timeout=5).is_success
        except httpx.TransportError:
            assert self.process.poll() is None, self._output.read_text()[-3000:]
            return False


def _serve(port: int) -> None:
    import uvicorn

    from app import reconciler
    from app.base.settings import Settings
    from app.http.server import options
    from app.main import create_app

    reconciler.TICK_SECONDS = TICK_SECONDS
    settings = Settings(_env_file=None)
    uvicorn.run(
        create_app(settings), host="127.0.0.1", port=port, log_config=None, **options(settings)
    )
