"""The trainer as a process: it is given paths and numbers, never an address or a secret."""

import os
import signal
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from app.child_environment import offline_environment
from app.leash import leashed
from falqon_core.spec.messages import ExitCode, Failed, decode

KEPT_LOG_LINES = 200
EXPORT_TICK_SECONDS = 0.1
SAY_WHERE, SAY_WHERE_SECONDS = signal.SIGUSR1, 1.0  # the trainer writes the stacks of its threads


class TrainerProcess:
    """A session and process group of its own, so that all of it can be stopped and none of it outlives this thread."""

    def __init__(self, command: Sequence[str], config: Path, output: Path, log: Path) -> None:
        read_end, write_end = os.pipe()
        self._log = log
        self.messages: BinaryIO = os.fdopen(read_end, "rb")
        arguments = ["train", "--config", str(config), "--output", str(output), "--message-fd", str(write_end)]
        try:
            with log.open("ab") as stream:
                self._process = subprocess.Popen(
                    leashed([*command, *arguments]),
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    pass_fds=[write_end],
                    env=offline_environment(os.environ),
                    start_new_session=True,
                )
        finally:
            os.close(write_end)

    def poll(self) -> int | None:
        """The exit code, negative for a signal, or None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Ask for a checkpoint and an end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def kill_hung(self) -> None:
        """Its log then says where it was, if it can still say anything."""
        self._signal(SAY_WHERE)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(SAY_WHERE_SECONDS)
        self.kill()

    def wait(self, seconds: float) -> int | None:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """Leave nothing of the group behind, whatever the leader did."""
        self.kill()
        self._process.wait()

    def last_log_lines(self) -> str:
        with self._log.open(errors="replace") as stream:
            return "".join(deque(stream, KEPT_LOG_LINES))

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # all of it has ended
            os.killpg(self._process.pid, number)


class ToolFailed(Exception):
    """A command of the trainer's has ended without its result. `failure`: what may be told of it, `log` what it wrote."""

    def __init__(self, failure: Failed, log: str) -> None:
        super().__init__(f"{failure.code}: {failure.message}\n{log}")
        self.failure = failure


def export(command: Sequence[str], training: Path, step: int, base: Path, base_name: str, output: Path, check: Callable[[], None]) -> None:
    """Have the trainer write the checkpoint of a step as a model, as `run_tool` does."""
    arguments = ["export", str(training), "--step", str(step), "--model", str(base), "--base-model", base_name, "--output", str(output)]
    run_tool(command, arguments, check)


def run_tool(command: Sequence[str], arguments: Sequence[str], check: Callable[[], None]) -> None:
    """`check` is called meanwhile and may raise to give up. Raises `ToolFailed`."""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as messages, tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                leashed([*command, *arguments, "--message-fd", str(write_end)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[write_end],
                env=offline_environment(os.environ),
                start_new_session=True,
            )
        finally:
            os.close(write_end)
        try:
            while process.poll() is None:
                check()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(EXPORT_TICK_SECONDS)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode != ExitCode.DONE:
            log.seek(0)
            lines = b"".join(deque(log, KEPT_LOG_LINES)).decode(errors="replace")
            raise ToolFailed(_told(process.returncode, messages.read()), lines)


def _told(exit_code: int, line: bytes) -> Failed:
    with suppress(ValidationError):
        if isinstance(message := decode(line.strip()), Failed):
            return message
    return Failed(code="internal_error", message=f"The program ended with {exit_code}; the log of the worker holds the details.")
