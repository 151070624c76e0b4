"""Programs that run beside this process: started again when they crash, stopped in order, dead when this process is."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from logging import LogRecord, makeLogRecord
from logging.handlers import RotatingFileHandler
from pathlib import Path

from app.client.text import plain
from app.processes.parent_death import leashed

BACKOFF_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
STABLE_SECONDS = 30.0  # who ran this long and then crashes is not in a crash loop
MAX_LOG_BYTES = 10 * 2**20  # of a log, and of the one before it
MAX_LINE_BYTES = 2**16  # a longer one is several
LINES_AT_ONCE, LINES_PER_SECOND = 20, 1  # of trouble, on the terminal
TROUBLE = re.compile(r"\b(error|critical|exception|traceback)\b", re.IGNORECASE)


class Child:
    """All methods belong to one thread: the kernel ties a child's life to the thread that started it."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], logs: Path) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._log_path = logs / f"{name}.log"
        self._log = ChildLog(self._log_path)
        self._pace = Pace()
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._crashes = 0
        self._start_at = 0.0

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        self._started_at = time.monotonic()
        self._process = subprocess.Popen(
            leashed(self._command),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal reaches only us, and we stop the children in order
        )
        threading.Thread(target=self._keep_log, args=[self._process], daemon=True).start()

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def look_after(self) -> None:
        """Start it again if it ended, after a pause that grows with each crash."""
        if self.alive():
            return
        now = time.monotonic()
        if self._process is not None:
            code = self._process.returncode
            self._crashes = 0 if now - self._started_at > STABLE_SECONDS else self._crashes
            pause = BACKOFF_SECONDS[min(self._crashes, len(BACKOFF_SECONDS) - 1)]
            say(f"{self.name} ended with {code}; starting it again in {pause:g} s (log: {self._log_path})")
            self._process, self._crashes, self._start_at = None, self._crashes + 1, now + pause
        elif now >= self._start_at:
            self.start()

    def signal(self, number: signal.Signals) -> None:
        if self.alive() and self._process is not None:
            self._process.send_signal(number)

    def kill_group(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _keep_log(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            for line in iter(partial(stream.readline, MAX_LINE_BYTES), b""):
                text = line.decode(errors="replace").rstrip()
                self._log.handle(makeLogRecord({"msg": text}))
                if TROUBLE.search(text):
                    self._say_trouble(text)
        self._log.close()

    def _say_trouble(self, text: str) -> None:
        left_out = self._pace.take()
        if left_out:
            say(f"{self.name}: {left_out} more lines of trouble are in {self._log_path}")
        if left_out is not None:
            say(f"{self.name}: {text}")


class ChildLog(RotatingFileHandler):
    """Turned over while it is written: when it is full it becomes the old one, and the old one goes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=MAX_LOG_BYTES, backupCount=1, encoding="utf-8", delay=True)
        self.namer = lambda _: str(path.with_suffix(".old.log"))

    def handleError(self, record: LogRecord) -> None:
        """Lose the line: a child that nobody reads stands still, whatever the disk says."""


class Pace:
    """Lets some lines pass at once and then one a second, and counts those between."""

    def __init__(self) -> None:
        self._full_at = 0.0  # when as many may pass at once as at first
        self._left_out = 0

    def take(self) -> int | None:
        """How many were left out before this one; None if this one is."""
        now = time.monotonic()
        full_at = max(now, self._full_at) + 1 / LINES_PER_SECOND
        if full_at - now > LINES_AT_ONCE / LINES_PER_SECOND:
            self._left_out += 1
            return None
        left_out, self._left_out, self._full_at = self._left_out, 0, full_at
        return left_out


def say(text: str) -> None:
    sys.stderr.write(plain(text) + "\n")  # a log line may hold anything, and this may be a terminal
    sys.stderr.flush()
