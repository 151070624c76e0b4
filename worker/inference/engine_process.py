"""The program that answers for one model."""

import fcntl
import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from typing import IO

from app.base.processes.child_process import ChildProcess
from app.base.processes.subprocess_env import offline_environment
from app.base.settings import Settings
from worker.inference.llama_cpp import TOKEN_VARIABLE
from worker.inference.own_address import own_address
from worker.machine.subprocesses import last_lines
from worker.operations.handler import PermanentError

PROGRAM_POLL_SECONDS = 0.1
LOAD_SECONDS = 600.0
KEPT_LOG_LINES = 20
MAX_LOG_BYTES = 16 * 2**20  # llama.cpp writes 800 bytes for each request, for as long as it lives


class EngineEnded(Exception):
    """It has ended by itself; with the end of its log."""


class EngineProcess(ChildProcess):
    """A server with one model, for those who know `token`; `command` is its module and arguments.

    Whoever starts it closes `output`.
    """

    def __init__(
        self, command: Sequence[str], model_id: str, settings: Settings, log: IO[bytes]
    ) -> None:
        self.token = secrets.token_urlsafe(32)
        self.address = ""
        self._log = log
        # Each write goes to the end, wherever that is once the log has been emptied.
        flags = fcntl.fcntl(log, fcntl.F_GETFL)
        fcntl.fcntl(log, fcntl.F_SETFL, flags | os.O_APPEND)
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        self.output = os.fdopen(read_end, "rb", buffering=0)
        program = [sys.executable, "-m", *command, "--name", model_id]
        host = settings.engine_host
        program += ["--host", own_address(settings) if host == "auto" else host]
        environment = offline_environment(os.environ) | {TOKEN_VARIABLE: self.token}
        try:
            super().__init__(program, environment, stdout=write_end, stderr=log)
        finally:
            os.close(write_end)

    def wait_for_address(self, check: Callable[[], None]) -> str:
        """Return the engine's address once the model is loaded. `check` may raise to give up."""
        deadline = time.monotonic() + LOAD_SECONDS
        line = b""
        while not line.endswith(b"\n"):
            check()
            self.check_alive(PROGRAM_POLL_SECONDS)
            if time.monotonic() > deadline:
                minutes = LOAD_SECONDS / 60
                raise PermanentError("too_slow", f"It took more than {minutes:g} minutes to load.")
            line += self.output.read() or b""
        self.address = line.decode().strip()
        return self.address

    def check_alive(self, seconds: float) -> None:
        """Wait so long; raise `EngineEnded` if it has ended by then. Empties a log that has grown
        too long.
        """
        if self.wait_up_to(seconds) is not None:
            log = last_lines(self._log, KEPT_LOG_LINES)
            raise EngineEnded(f"the engine has ended with {self.returncode}\n{log}")
        if os.fstat(self._log.fileno()).st_size > MAX_LOG_BYTES:
            os.ftruncate(self._log.fileno(), 0)
