"""Start of other programs: none of them outlives the thread that started it."""

import os
import signal
import subprocess
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from app.base.processes.parent_death import command_dying_with_parent

Stream = int | IO[bytes]


class ChildProcess(subprocess.Popen[bytes]):
    """Program in a session and a process group of its own, so that Ctrl-C in the terminal reaches
    only us, and all of it can be stopped. As a context manager it is killed at the end.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream,
        stderr: Stream,
        folder: Path | None = None,
        pass_fds: Collection[int] = (),
    ) -> None:
        super().__init__(
            command_dying_with_parent(command),
            env=environment,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=folder,
            pass_fds=pass_fds,
            start_new_session=True,
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill_group()
        super().__exit__(kind, error, trace)

    def wait_up_to(self, seconds: float) -> int | None:
        """Return the exit code, negative for a signal, or None if it still runs by then."""
        try:
            return self.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def signal_group(self, number: signal.Signals) -> None:
        """Signal the whole group, also when its leader has ended."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill_group(self) -> None:
        self.signal_group(signal.SIGKILL)

    def close(self) -> None:
        """Terminate the whole process group, independently of the leader's exit."""
        self.kill_group()
        self.wait()
