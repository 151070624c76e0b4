"""Programs that run beside this process: restarted when they crash, stopped in order, dead when
this process is.
"""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from logging import LogRecord, makeLogRecord
from logging.handlers import RotatingFileHandler
from pathlib import Path

from app.base.processes.child_process import ChildProcess
from app.base.terminal import plain

BACKOFF_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
STABLE_SECONDS = 30.0  # a program that ran this long before a crash is not in a crash loop
MAX_LOG_BYTES = 10 * 2**20  # bytes per log file, and of its predecessor
MAX_LINE_BYTES = 2**16  # a longer one is several
# Lines of trouble on the terminal.
LINES_AT_ONCE = 20
LINES_PER_SECOND = 1
QUIET_LEVELS = ("debug", "info")
MAX_REASON = 200  # characters of an error on the terminal
ERROR_LINE = re.compile(r"\b(error|critical|exception|traceback)\b", re.IGNORECASE)


class SupervisedProcess:
    """Process that restarts and logs. All methods belong to one thread: the kernel ties a process's
    life to the thread that started it.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], logs: Path
    ) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._log_path = logs / f"{name}.log"
        self._log = ProcessLog(self._log_path)
        self._line_limit = LineLimit()
        self._process: ChildProcess | None = None
        self._started_at = 0.0
        self._crashes = 0
        self._start_at = 0.0

    @property
    def pid(self) -> int | None:
        if self._process is None:
            return None
        return self._process.pid

    def start(self) -> None:
        self._started_at = time.monotonic()
        self._process = ChildProcess(
            self._command, self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        threading.Thread(target=self._keep_log, args=[self._process], daemon=True).start()

    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def restart_if_ended(self) -> None:
        """Restart it if it ended, after a pause that grows with each crash."""
        if self.is_alive():
            return
        now = time.monotonic()
        if self._process is not None:
            code = self._process.returncode
            if now - self._started_at > STABLE_SECONDS:
                self._crashes = 0
            pause = BACKOFF_SECONDS[min(self._crashes, len(BACKOFF_SECONDS) - 1)]
            say(
                f"{self.name} ended with {code}; starting it again in {pause:g} s "
                f"(log: {self._log_path})"
            )
            self._process = None
            self._crashes += 1
            self._start_at = now + pause
        elif now >= self._start_at:
            self.start()

    def send_signal(self, number: signal.Signals) -> None:
        if self.is_alive() and self._process is not None:
            self._process.send_signal(number)

    def close(self) -> None:
        """Terminate the whole group."""
        if self._process is not None:
            self._process.close()

    def _keep_log(self, process: ChildProcess) -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            for line in iter(partial(stream.readline, MAX_LINE_BYTES), b""):
                text = line.decode(errors="replace").rstrip()
                self._log.handle(makeLogRecord({"msg": text}))
                if ERROR_LINE.search(text) and (words := in_words(text)):
                    self._say_trouble(words)
        self._log.close()

    def _say_trouble(self, text: str) -> None:
        left_out = self._line_limit.take()
        if left_out:
            say(f"{self.name}: {left_out} more lines of trouble are in {self._log_path}")
        if left_out is not None:
            say(f"{self.name}: {text}")


def in_words(line: str) -> str:
    """Return a line of a log as people read it: of JSON its event and the error, and nothing of an
    event that only informs.
    """
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return line
    if not isinstance(entry, dict) or "event" not in entry:
        return line
    if entry.get("level") in QUIET_LEVELS:
        return ""
    details = str(entry.get("error") or entry.get("exception") or "").strip().splitlines()
    event = str(entry["event"]).removesuffix(".")
    reason = f": {details[-1][:MAX_REASON]}" if details else ""
    return f"{event}{reason} (the log has more)"


class ProcessLog(RotatingFileHandler):
    """Log file that is rotated while it is written; one old file is kept."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=MAX_LOG_BYTES, backupCount=1, encoding="utf-8", delay=True)
        self.namer = lambda _: str(path.with_suffix(".old.log"))

    def handleError(self, record: LogRecord) -> None:
        """Drop the line: a process whose output is not read blocks, so errors of the disk must not
        stop it.
        """


class LineLimit:
    """Lets some lines pass at once and then one a second, and counts those between."""

    def __init__(self) -> None:
        self._full_at = 0.0  # time at which the full allowance is available again
        self._left_out = 0

    def take(self) -> int | None:
        """Return the number of lines dropped before this line; None if this line is dropped."""
        now = time.monotonic()
        full_at = max(now, self._full_at) + 1 / LINES_PER_SECOND
        if full_at - now > LINES_AT_ONCE / LINES_PER_SECOND:
            self._left_out += 1
            return None
        left_out = self._left_out
        self._left_out = 0
        self._full_at = full_at
        return left_out


def say(text: str) -> None:
    """Write to standard error, which may be a terminal, while a log line may hold anything."""
    sys.stderr.write(plain(text) + "\n")
    sys.stderr.flush()
