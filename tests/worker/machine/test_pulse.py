"""A worker shows that it moves, whether it is idle or has a job; Redis need not be there for it."""

import os
import signal
import time
from datetime import timedelta
from pathlib import Path

from tests.support.backend import Backend
from tests.support.fake_trainer import FakeTrainer
from tests.support.waiting import wait_for
from worker.machine import pulse

LONG = FakeTrainer(steps=5000, step_seconds=0.02)


def moves(file: Path) -> None:
    """Wait until the file has been touched twice more."""
    for _ in range(2):
        before = file.stat().st_mtime_ns if file.exists() else 0
        wait_for(
            lambda before=before: file.exists() and file.stat().st_mtime_ns > before,
            what="the worker moves",
        )


def test_a_worker_moves_while_it_is_idle_and_while_it_has_a_job(
    embedded_backend: Backend, tmp_path: Path
) -> None:
    backend = embedded_backend
    file = tmp_path / "alive"
    settings = {
        "redis_url": "redis://127.0.0.1:1/0",
        "poll": timedelta(seconds=0.3),
        "heartbeat": timedelta(seconds=0.3),
    }
    backend.settings = backend.settings.model_copy(update=settings)
    worker = backend.start_worker(FALQON_ALIVE_FILE=str(file))
    moves(file)
    backend.wait_for_step(backend.add_job(LONG), 1)
    moves(file)
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        time.sleep(0.2)
        stood_at = file.stat().st_mtime_ns
        time.sleep(1)
        assert file.stat().st_mtime_ns == stood_at
    finally:
        os.kill(worker.pid, signal.SIGCONT)


def test_no_file_is_named_unless_somebody_asks(tmp_path: Path) -> None:
    pulse.show_in(tmp_path / "alive")
    pulse.beat()
    assert (tmp_path / "alive").exists()
    pulse.show_in(tmp_path / "no folder" / "alive")
    pulse.beat()  # says so in the log, and the worker goes on
    pulse.show_in(None)
    pulse.beat()
    assert sorted(tmp_path.iterdir()) == [tmp_path / "alive"]
