"""A connection whose reads end: the caller's check is called every few seconds, and a source that
sends too little is given up.
"""

import io
import socket
import time
from collections.abc import Callable

CHECK_INTERVAL_SECONDS = 2.0  # the longest wait between two checks
SILENT_SECONDS = 30.0
# Limit of an answer as a whole, with its head and the redirects before it.
RATE_SECONDS = 60.0
MIN_BYTES_PER_SECOND = 10 * 1024


class SourceTooSlow(Exception):
    """A source sends, but less than it must."""


class Pace:
    """Counts what arrives in each `RATE_SECONDS` of waiting for it."""

    def __init__(self) -> None:
        self._waited = 0.0
        self._num_bytes = 0

    def add(self, seconds: float, num_bytes: int) -> None:
        """Raises `SourceTooSlow`."""
        self._waited += seconds
        self._num_bytes += num_bytes
        if self._waited < RATE_SECONDS:
            return
        if self._num_bytes < MIN_BYTES_PER_SECOND * self._waited:
            raise SourceTooSlow
        self._waited, self._num_bytes = 0.0, 0


class CheckedSocket:
    """The part of a socket that `http.client` uses. The opener of `connected` closes it."""

    def __init__(self, connected: socket.socket, check: Callable[[], None], pace: Pace) -> None:
        self._connected = connected
        self._reader = _Reader(connected, check, pace)

    def sendall(self, data: bytes) -> None:
        self._connected.settimeout(SILENT_SECONDS)
        self._connected.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        self._connected.settimeout(CHECK_INTERVAL_SECONDS)
        return io.BufferedReader(self._reader)

    def close(self) -> None:
        """Leave it open: an answer is read after its connection has been closed."""


class _Reader(io.RawIOBase):
    def __init__(self, connected: socket.socket, check: Callable[[], None], pace: Pace) -> None:
        self._connected = connected
        self._check = check
        self._pace = pace

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        silent_until = time.monotonic() + SILENT_SECONDS
        while True:
            self._check()
            started = time.monotonic()
            try:
                num_bytes = self._connected.recv_into(buffer)
            except TimeoutError:
                if time.monotonic() >= silent_until:
                    raise
                num_bytes = None
            self._pace.add(time.monotonic() - started, num_bytes or 0)
            if num_bytes is not None:
                return num_bytes
