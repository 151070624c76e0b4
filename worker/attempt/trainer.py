"""The trainer as a process: it is given paths and numbers, never an address or a secret."""

import os
import signal
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from app.processes.parent_death import leashed
from app.processes.subprocess_env import offline_environment
from falqon_core.contract.messages import ENDLESS_TEMPLATE, AnyMessage, ExitCode, Failed, decode

KEPT_LOG_LINES = 200
TICK_SECONDS = 0.1
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


def run_tool(
    command: Sequence[str], arguments: Sequence[str], check: Callable[[], None], hear: Callable[[AnyMessage], None] = lambda _: None
) -> bytes:
    """What the program writes to its standard output. `check` is called meanwhile and may raise to give up; `hear` is given the program's
    messages. Raises `ToolFailed`."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    with os.fdopen(read_end, "rb", buffering=0) as pipe, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                leashed([*command, *arguments, "--message-fd", str(write_end)]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                pass_fds=[write_end],
                env=offline_environment(os.environ),
                start_new_session=True,
            )
        finally:
            os.close(write_end)
        told: Failed | None = None
        messages = _messages(pipe)
        try:
            has_ended = False
            while not has_ended:
                check()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(TICK_SECONDS)
                has_ended = process.poll() is not None  # asked before the pipe is read, so that its last words are heard
                for message in next(messages):
                    told = message if isinstance(message, Failed) else told
                    hear(message)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode != ExitCode.DONE:
            log.seek(0)
            lines = b"".join(deque(log, KEPT_LOG_LINES)).decode(errors="replace")
            raise ToolFailed(told or _untold(process.returncode), lines)
        output.seek(0)
        return output.read()


def _untold(exit_code: int) -> Failed:
    if exit_code == ENDLESS_TEMPLATE:
        return Failed(code="model_refused", message="The model's chat template does not come to an end.", param="model")
    return Failed(code="internal_error", message=f"The program ended with {exit_code}; the log of the worker holds the details.")


def _messages(pipe: FileIO) -> Iterator[list[AnyMessage]]:
    """Each time those that have arrived since; what is none is left out."""
    rest = b""
    while True:
        *lines, rest = (rest + (pipe.read() or b"")).split(b"\n")
        found = []
        for line in lines:
            with suppress(ValidationError):
                found.append(decode(line))
        yield found
