"""Commands of the trainer's program: they are given paths and numbers, never an address or a
secret, and send messages through a pipe.
"""

import io
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import IO

from pydantic import ValidationError

from app.base.processes.child_process import ChildProcess, Stream
from app.base.processes.subprocess_env import offline_environment
from falqon_core.contract.messages import ENDLESS_TEMPLATE, AnyMessage, ExitCode, Failed, decode

KEPT_LOG_LINES = 200
MAX_KEPT_BYTES = 256 * 2**10
TOOL_POLL_SECONDS = 0.1


class CoreProcess(ChildProcess):
    """One command of `falqon_core`. The caller reads and closes `messages`."""

    def __init__(
        self,
        program: Sequence[str],
        arguments: Sequence[str],
        *,
        stdout: Stream,
        stderr: Stream,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        read_end, write_end = os.pipe()
        self.messages = os.fdopen(read_end, "rb")
        try:
            super().__init__(
                [*program, *arguments, "--message-fd", str(write_end)],
                environment or offline_environment(os.environ),
                stdout=stdout,
                stderr=stderr,
                pass_fds=[write_end],
            )
        finally:
            os.close(write_end)


class ToolFailed(Exception):
    """A command has ended without its result. `failure` is what the user may read of it; the
    exception's text holds its log as well.
    """

    def __init__(self, failure: Failed, log: str) -> None:
        super().__init__(f"{failure.code}: {failure.message}\n{log}")
        self.failure = failure


def run_tool(
    program: Sequence[str],
    arguments: Sequence[str],
    check: Callable[[], None],
    on_message: Callable[[AnyMessage], None] = lambda _: None,
    environment: Mapping[str, str] | None = None,
) -> bytes:
    """Return the standard output of the command. `check` is called meanwhile and may raise to give
    up. Without an `environment` it sees nothing outside this machine. Raises `ToolFailed`."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as log:
        process = CoreProcess(
            program, arguments, stdout=output, stderr=log, environment=environment
        )
        with process, process.messages:
            failure = _follow(process, check, on_message)
        if process.returncode != ExitCode.DONE:
            text = last_lines(log, KEPT_LOG_LINES)
            raise ToolFailed(failure or _unexplained_failure(process.returncode), text)
        output.seek(0)
        return output.read()


def last_lines(log: IO[bytes], count: int) -> str:
    """Return the last lines of a file, at most `MAX_KEPT_BYTES` of it: a program may write
    gigabytes without ending a line.
    """
    start = max(0, log.seek(0, os.SEEK_END) - MAX_KEPT_BYTES)
    log.seek(start)
    end = log.read(MAX_KEPT_BYTES)
    if start:  # A part of a line may hide that what follows is a secret.
        end = end.partition(b"\n")[2] or end
    return b"".join(deque(io.BytesIO(end), count)).decode(errors="replace")


def _follow(
    process: CoreProcess, check: Callable[[], None], on_message: Callable[[AnyMessage], None]
) -> Failed | None:
    """Pass messages on until the process ends; return the one that says why it failed."""
    os.set_blocking(process.messages.fileno(), False)
    failure: Failed | None = None
    rest = b""
    has_ended = False
    while not has_ended:
        check()
        # Asked before the pipe is read, so that the last messages count.
        has_ended = process.wait_up_to(TOOL_POLL_SECONDS) is not None
        *lines, rest = (rest + (process.messages.raw.read() or b"")).split(b"\n")
        for message in _decode_messages(lines):
            if isinstance(message, Failed):
                failure = message
            on_message(message)
    return failure


def _decode_messages(lines: Iterable[bytes]) -> Iterator[AnyMessage]:
    """Leave out what is no message."""
    for line in lines:
        with suppress(ValidationError):
            yield decode(line)


def _unexplained_failure(exit_code: int) -> Failed:
    if exit_code == ENDLESS_TEMPLATE:
        return Failed(
            code="model_refused",
            message="The model's chat template does not come to an end.",
            param="model",
        )
    return Failed(
        code="internal_error",
        message=f"The program ended with {exit_code}; the log of the worker holds the details.",
    )
