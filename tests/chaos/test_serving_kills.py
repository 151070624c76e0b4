"""Engine, worker and API are killed under streams: what comes next is answered, nothing stays
behind, and no project sees another's words.
"""

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select

from app.base.settings import Settings
from app.catalogue.importer import TINY_MODEL_ID, ensure_tiny_model
from app.models import Artifact, Engine, EngineState
from tests.chaos.api_process import ApiProcess
from tests.chaos.askers import Asker, Voice, add_projects, asking
from tests.chaos.conftest import Count
from tests.chaos.scale import SCALE, every_run_on
from tests.support.backend import Backend, processes
from tests.support.forks import Fork
from tests.support.valkey import Valkey
from tests.support.waiting import wait_for

LETTERS = "ABCD"
VICTIMS = ("engine", "worker", "api")
PAUSE_SECONDS = (0.2, 1.0)
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
            case "engine":
                return self._kill_engine()
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

    def engine(self) -> Engine | None:
        with self.backend.database.read() as session:
            return session.get(Engine, (TINY_MODEL_ID, 0))

    def busy_slots(self) -> int:
        """Return how many answers the engine works at."""
        engine = self.engine()
        assert engine is not None
        assert engine.state == EngineState.READY
        headers = {"authorization": f"Bearer {engine.token}"}
        slots = httpx.get(f"{engine.address}/slots", headers=headers, timeout=10).json()
        return sum(slot["is_processing"] for slot in slots)

    def stop_worker(self) -> None:
        self._worker.send_signal(signal.SIGTERM)
        self._worker.wait(RECOVERY_SECONDS)

    def close(self) -> None:
        self.api.close()
        self._worker.kill()
        self._worker.wait()
        self._valkey.kill()

    def _start_worker(self) -> Fork:
        return self.backend.start_worker("cpu")

    def _kill_engine(self) -> bool:
        pids = self.engines()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(pids)


@pytest.fixture
def serving(backend: Backend) -> Iterator[Serving]:
    real = Settings(_env_file=None).trainer_command
    backend.settings = backend.settings.model_copy(
        update={"trainer_command": real, "lease": timedelta(seconds=3)}
    )
    ensure_tiny_model(backend.database, backend.storage, backend.settings)
    serving = Serving(backend)
    yield serving
    serving.close()


@pytest.fixture
def voices(backend: Backend, serving: Serving) -> list[Voice]:
    is_tokenizer = (Artifact.model_id == TINY_MODEL_ID, Artifact.name == "tokenizer.json")
    with backend.database.read() as session:
        key = session.scalars(select(Artifact.storage_key).where(*is_tokenizer)).one()
    vocabulary = json.loads(backend.storage.read(key) or b"")["model"]["vocab"]
    return add_projects(backend, vocabulary, LETTERS)


@every_run_on("sqlite")
def test_killed_under_streams(
    serving: Serving, voices: list[Voice], rng: random.Random, count: Count
) -> None:
    next_one = Asker(serving.api.url, voices[0], voices)
    wait_for(lambda: next_one.ask() == "answered", RECOVERY_SECONDS, "the model is loaded")
    askers = [
        Asker(serving.api.url, voices[number % len(voices)], voices)
        for number in range(SCALE.asking_streams)
    ]
    victims = [VICTIMS[number % len(VICTIMS)] for number in range(SCALE.serving_kills)]
    rng.shuffle(victims)
    killed: Counter[str] = Counter()
    with asking(askers):
        for victim in victims:
            time.sleep(rng.uniform(*PAUSE_SECONDS))
            killed[victim] += serving.kill(victim)
            wait_for(lambda: next_one.ask() == "answered", RECOVERY_SECONDS, f"after {victim}")
    outcomes = sum((asker.counts for asker in (*askers, next_one)), Counter[str]())
    count(**killed, **{name.replace(" ", "_"): number for name, number in outcomes.items()})
    assert [fault for asker in (*askers, next_one) for fault in asker.faults] == []
    assert killed.total() == len(victims)
    wait_for(lambda: len(serving.engines()) == 1, NOTICE_SECONDS, "one engine is left")
    wait_for(lambda: serving.busy_slots() == 0, NOTICE_SECONDS, "nobody is answered any more")
    serving.stop_worker()
    assert serving.engines() == []
    with serving.backend.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Engine)) == 0
    for log in ("api.log", "worker.log"):
        text = (Path(serving.backend.settings.data_dir) / log).read_text()
        assert [voice.canary for voice in voices if voice.canary in text] == []
