"""The API and a worker of engines, each a process, there to be killed."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

import httpx
from sqlalchemy import select

from app.base.settings import Settings
from app.catalogue.importer import ensure_tiny_model
from app.models import Engine, EngineState
from tests.chaos.api_process import ApiProcess
from tests.chaos.askers import Voice
from tests.support.backend import Backend, processes
from tests.support.forks import Fork
from tests.support.valkey import Valkey
from tests.support.waiting import wait_for

RECOVERY_SECONDS = 120.0  # on a busy machine
NOTICE_SECONDS = 5.0


class Serving:
    """The API and a worker of engines, each a process, on the backend's database."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._valkey = Valkey(backend.settings.data_dir)
        self.api = ApiProcess(backend)
        self._worker = self._start_worker()

    def kill(self, victim: str) -> bool:
        """Kill it and, unless that is another's work, start it again."""
        match victim:
            case "engines":
                return self._kill_engines(self.engines())
            case "engine":
                return self._kill_engines(self.engines()[:1])
            case "worker":
                self._worker.kill()
                self._worker.wait()
                self._worker = self._start_worker()
            case "api":
                self.api.kill()
                self.api.start()
        return True

    def engines(self) -> list[int]:
        """Return the engines that run."""
        return processes("worker.inference.llama_cpp", str(self.backend.settings.data_dir))

    def rows(self) -> Sequence[Engine]:
        """Return what the database has of engines."""
        with self.backend.database.read() as session:
            return session.scalars(select(Engine)).all()

    def busy_slots(self) -> int:
        """Return how many answers the engines work at."""
        num_busy = 0
        for engine in self.rows():
            assert engine.state == EngineState.READY
            headers = {"authorization": f"Bearer {engine.token}"}
            slots = httpx.get(f"{engine.address}/slots", headers=headers, timeout=10).json()
            num_busy += sum(slot["is_processing"] for slot in slots)
        return num_busy

    def check_end(self, num_engines: int, voices: Sequence[Voice]) -> None:
        """Assert that what is left works at nothing, that it ends with its worker, and that no log
        has a prompt.
        """
        left = f"engines that are left: {num_engines}"
        wait_for(lambda: len(self.engines()) == num_engines, NOTICE_SECONDS, left)
        assert len(self.rows()) == num_engines
        wait_for(lambda: self.busy_slots() == 0, NOTICE_SECONDS, "nobody is answered any more")
        self._worker.send_signal(signal.SIGTERM)
        self._worker.wait(RECOVERY_SECONDS)
        assert self.engines() == []
        assert self.rows() == []
        for log in ("api.log", "worker.log"):
            text = (self.backend.settings.data_dir / log).read_text()
            assert [voice.canary for voice in voices if voice.canary in text] == []

    def close(self) -> None:
        self.api.close()
        self._worker.kill()
        self._worker.wait()
        self._valkey.kill()

    def _start_worker(self) -> Fork:
        return self.backend.start_worker("cpu")

    @staticmethod
    def _kill_engines(pids: Sequence[int]) -> bool:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(pids)


@contextmanager
def serving_on(backend: Backend) -> Iterator[Serving]:
    """Serve falqon-tiny, with a lease short enough that a killed worker is missed soon."""
    real = Settings(_env_file=None).trainer_command
    backend.settings = backend.settings.model_copy(
        update={"trainer_command": real, "lease": timedelta(seconds=3)}
    )
    ensure_tiny_model(backend.database, backend.storage, backend.settings)
    serving = Serving(backend)
    try:
        yield serving
    finally:
        serving.close()
