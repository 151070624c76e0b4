"""Events on their way to the database, in order: a few in memory, those that come while it is
unavailable in a file of the attempt.

The file is bounded. What does not fit, or cannot be written because the disk is full, is given up
and counted: training must not wait.
"""

import json
import os
import threading
import time
from collections import deque
from pathlib import Path
from typing import BinaryIO

import structlog

from app.jobs.events import NewEvent
from falqon_core.fault_points import fault

IN_MEMORY = 1_000  # events
MAX_BYTES = 64 * 2**20
MAX_EVENT_BYTES = READ_BYTES = 2**20
SYNC_SECONDS = 1.0  # A write that the disk refuses must be noticed here, not when it is read.

log = structlog.get_logger()


class Spool:
    """One thread adds, another takes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._memory: deque[NewEvent] = deque()
        self._file: BinaryIO | None = None
        # The unread part of the file.
        self._start = 0
        self._end = 0
        self._in_file = 0
        self._synced_at = 0.0
        self._lost = 0

    def __len__(self) -> int:
        with self._lock:
            return len(self._memory) + self._in_file

    def add(self, event: NewEvent) -> None:
        with self._lock:
            if not self._in_file and len(self._memory) < IN_MEMORY:
                self._memory.append(event)
                return
            try:
                self._write(json.dumps(event._asdict()).encode() + b"\n")
            except OSError as error:
                if not self._lost:
                    log.warning("an event is lost", error=str(error))
                self._lost += 1

    def take(self, count: int) -> list[NewEvent]:
        """Remove and return the oldest events."""
        with self._lock:
            events = [self._memory.popleft() for _ in range(min(count, len(self._memory)))]
            while self._in_file and len(events) < count:
                events += self._read(count - len(events))
            return events

    def take_lost(self) -> int:
        """Return the number of events dropped since the last call."""
        with self._lock:
            lost = self._lost
            self._lost = 0
            return lost

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._path.unlink(missing_ok=True)
                self._file = None
                self._in_file = 0

    def _write(self, line: bytes) -> None:
        if len(line) > MAX_EVENT_BYTES or self._end + len(line) > MAX_BYTES:
            raise OSError("the spool is full")
        fault("spool_write")
        if self._file is None:
            self._file = self._path.open("w+b", buffering=0)
        written = 0
        # Cut short by a full disk, the rest raises, and the next event takes its place.
        while written < len(line):
            written += os.pwrite(self._file.fileno(), line[written:], self._end + written)
        if time.monotonic() - self._synced_at > SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced_at = time.monotonic()
        self._end += len(line)
        self._in_file += 1

    def _read(self, count: int) -> list[NewEvent]:
        assert self._file is not None
        data = os.pread(self._file.fileno(), min(READ_BYTES, self._end - self._start), self._start)
        lines = data[: data.rindex(b"\n") + 1].splitlines(keepends=True)[:count]
        self._start += sum(len(line) for line in lines)
        self._in_file -= len(lines)
        if not self._in_file:
            self._file.truncate(0)
            self._start = 0
            self._end = 0
        return [NewEvent(**json.loads(line)) for line in lines]
