"""A program on a terminal of its own."""

import os
import pty
import re
import select
import signal
import time
from collections.abc import Mapping

CONTROL_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
CTRL_C = b"\x03"


class Terminal:
    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self.raw = ""
        self.exit_code: int | None = None
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            # a suite in the background of a script ignores it, and that is inherited
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.execve(
                command[0],
                command,
                dict(environment) | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"},
            )

    @property
    def text(self) -> str:
        """Everything that ever stood on it."""
        return CONTROL_SEQUENCE.sub("", self.raw).replace("\r", "")

    def type(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def read_until(self, words: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while words not in self.text:
            assert self._read(deadline), (
                f"it ended or went silent without showing {words!r}:\n{self.text}"
            )

    def type_until(self, keys: bytes, words: str, seconds: float = 30) -> None:
        """Press again where nothing comes for long: Python's readline does not notice a Ctrl-C
        between its prompt and its wait for keys. A second one must not meet what is typed next.
        """
        deadline = time.monotonic() + seconds
        while words not in self.text:
            assert time.monotonic() < deadline, f"no {words!r}:\n{self.text}"
            self.type(keys)
            answered_by = time.monotonic() + 5
            while words not in self.text and self._read(answered_by):
                pass

    def finish(self, seconds: float = 60) -> int:
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        os.close(self._fd)
        self.exit_code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return self.exit_code

    def _read(self, deadline: float) -> bool:
        if not select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return False
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # the other side has been closed
            return False
        self.raw += data.decode(errors="replace")
        return bool(data)
