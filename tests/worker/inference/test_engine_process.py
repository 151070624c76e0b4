"""The program of an engine as its worker sees it."""

import os
import signal
import tempfile

import pytest

from app.base.settings import Settings
from tests.support.waiting import wait_for
from worker.inference import engine_process
from worker.inference.engine_process import EngineEnded, EngineProcess


def test_a_long_log_is_emptied_and_its_end_is_still_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_process, "MAX_LOG_BYTES", 10_000)
    command = ["tests.support.noisy_engine", "20000"]
    with (
        tempfile.TemporaryFile() as log,
        EngineProcess(command, "tiny", Settings(_env_file=None), log) as process,
        process.output,
    ):

        def size() -> int:
            return os.fstat(log.fileno()).st_size

        wait_for(lambda: size() > 10_000, what="the log is long")
        process.check_alive(0)
        assert size() == 0
        process.signal_group(signal.SIGTERM)
        with pytest.raises(EngineEnded, match=r"ended with 1\nthe last line"):
            process.check_alive(30)
        assert size() < 100, "what it writes then stands at the beginning"
