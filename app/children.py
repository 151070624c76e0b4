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
from pathlib import Path

from app.client.text import plain
from app.leash import leashed

BACKOFF_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
STABLE_SECONDS = 30.0  # who ran this long and then crashes is not in a crash loop
MAX_LOG_BYTES = 10 * 2**20
TROUBLE = re.compile(r"\b(error|critical|exception|traceback)\b", re.IGNORECASE)


class Child:
    """All methods belong to one thread: the kernel ties a child's life to the thread that started it."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], logs: Path) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._log_path = logs / f"{name}.log"
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
        if self._log_path.exists() and self._log_path.stat().st_size > MAX_LOG_BYTES:
            self._log_path.replace(self._log_path.with_suffix(".old.log"))
        with process.stdout as stream, self._log_path.open("ab") as log:
            for line in stream:
                log.write(line)
                log.flush()
                text = line.decode(errors="replace").rstrip()
                if TROUBLE.search(text):
                    say(f"{self.name}: {text}")


def say(text: str) -> None:
    sys.stderr.write(plain(text) + "\n")  # a log line may hold anything, and this may be a terminal
    sys.stderr.flush()
