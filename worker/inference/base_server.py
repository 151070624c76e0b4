"""vLLM with one base model, from which the engines of all adapters on it answer."""

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path

import httpx
import structlog

from app.base.settings import Settings
from app.inference.adapters import LOAD_PATH
from worker.inference.engine_choice import Loading, SharedBase
from worker.inference.engine_process import PROGRAM_POLL_SECONDS, EngineEnded, EngineProcess
from worker.inference.vllm import MAX_ADAPTERS
from worker.operations.handler import OperationAbandoned, PermanentError

ADAPTER_SECONDS = 30.0  # for a file of tens of MB, on this machine
UNLOAD_PATH = "/v1/unload_lora_adapter"

log = structlog.get_logger()


class BaseServer:
    """A program, and the engines that answer from it. The kernel ends a program with the thread
    that started it, so it has one of its own.
    """

    def __init__(self, loading: Loading, base: SharedBase, settings: Settings) -> None:
        self.base = base
        self.engines: list[str] = []  # their models, in the order in which they came
        self.address = ""
        self.token = ""
        self.pid = 0
        self._command = loading.command
        self._settings = settings
        self._is_ready = threading.Event()
        self._is_unused = threading.Event()
        self._failure = "the engine has ended"
        self._thread = threading.Thread(target=self._run, name="base server", daemon=True)
        self._thread.start()

    def wait_for_address(self, check: Callable[[], None]) -> str:
        """Return the address once the base is loaded. `check` may raise to give up."""
        while not self._is_ready.wait(PROGRAM_POLL_SECONDS):
            check()
            self.check_alive(0)
        return self.address

    def check_alive(self, seconds: float) -> None:
        """Wait so long; raise `EngineEnded` if it has ended by then."""
        self._thread.join(seconds)
        if not self.is_alive():
            raise EngineEnded(self._failure)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        """End it, and wait for that."""
        self._is_unused.set()
        self._thread.join()

    @contextmanager
    def adapter(self, model_id: str, folder: Path | None) -> Iterator[None]:
        """Have it answer as `model_id` with an adapter, PEFT's folder; None: as the base, which it
        does anyway. Raises `PermanentError` for an adapter that it refuses.
        """
        if folder is None:
            yield
            return
        body = {"lora_name": model_id, "lora_path": str(folder)}
        answer = self._post(LOAD_PATH, body)
        if answer.status_code == HTTPStatus.BAD_REQUEST:  # an earlier one of this name is there
            self._post(UNLOAD_PATH, {"lora_name": model_id})
            answer = self._post(LOAD_PATH, body)
        if answer.status_code != HTTPStatus.OK:
            log.warning("vLLM refuses an adapter", model=model_id, answer=answer.text[:1000])
            raise PermanentError(
                "adapter_not_loadable", "vLLM does not load the adapter; the worker's log says why."
            )
        try:
            yield
        finally:
            with suppress(EngineEnded):
                self._post(UNLOAD_PATH, {"lora_name": model_id})

    def _post(self, path: str, body: dict[str, str]) -> httpx.Response:
        """Raises `EngineEnded` where it does not answer."""
        headers = {"authorization": f"Bearer {self.token}"}
        timeout = httpx.Timeout(ADAPTER_SECONDS)
        try:
            with httpx.Client(trust_env=False, timeout=timeout, headers=headers) as client:
                return client.post(f"{self.address}{path}", json=body)
        except httpx.TransportError as error:
            raise EngineEnded(f"the engine does not answer {path}: {error!r}") from None

    def _run(self) -> None:
        try:
            with (
                tempfile.TemporaryFile() as engine_log,
                EngineProcess(
                    self._command, self.base.model_id, self._settings, engine_log
                ) as process,
                process.output,
            ):
                self.pid, self.token = process.pid, process.token
                self.address = process.wait_for_address(self._check_used)
                self._is_ready.set()
                while not self._is_unused.is_set():
                    process.check_alive(PROGRAM_POLL_SECONDS)
        except OperationAbandoned:
            pass
        except EngineEnded as error:
            self._failure = str(error)
        except Exception as error:  # the top-level handler of this thread
            log.warning("a base was not loaded", model=self.base.model_id, exc_info=True)
            self._failure = str(error)

    def _check_used(self) -> None:
        if self._is_unused.is_set():
            raise OperationAbandoned


class BaseServers:
    """The base servers of this process. Each ends with the last engine that answers from it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._servers: list[BaseServer] = []
        self._lock = threading.Lock()

    def find(self, base: SharedBase, *, is_full: bool = False) -> BaseServer | None:
        """Return one that has a place for another adapter on the base, or that has none."""
        with self._lock:
            return self._find(base, is_full=is_full)

    def hold(self, loading: Loading, base: SharedBase, model_id: str) -> BaseServer:
        """Return it for an engine, started where there is none yet."""
        with self._lock:
            server = self._find(base, is_full=False)
            if server is None:
                server = BaseServer(loading, base, self._settings)
                self._servers.append(server)
            server.engines.append(model_id)
            return server

    def release(self, server: BaseServer, model_id: str) -> None:
        with self._lock:
            server.engines.remove(model_id)
            is_unused = not server.engines
            if is_unused:
                self._servers.remove(server)
        if is_unused:
            server.close()

    def _find(self, base: SharedBase, *, is_full: bool) -> BaseServer | None:
        for server in self._servers:
            is_same = server.base.folder == base.folder and server.base.max_rank >= base.max_rank
            if is_same and server.is_alive() and (len(server.engines) >= MAX_ADAPTERS) == is_full:
                return server
        return None
