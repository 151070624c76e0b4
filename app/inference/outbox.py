"""Part of a stream that its client has not read yet."""

from collections.abc import AsyncIterator

import anyio

MAX_UNREAD_BYTES = 4 * 2**20  # more than most whole answers have


class Outbox:
    """Buffer that lets an engine end its answer although the client reads slowly."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._num_bytes = 0
        self._is_closed = False
        self._changed = anyio.Event()
        self._read = anyio.Event()

    def add(self, part: bytes) -> None:
        self._parts.append(part)
        self._num_bytes += len(part)
        self._changed.set()

    def close(self) -> None:
        """End the stream after the last added event."""
        self._is_closed = True
        self._changed.set()

    @property
    def is_full(self) -> bool:
        return self._num_bytes > MAX_UNREAD_BYTES

    async def wait_for_room(self) -> None:
        while self.is_full:
            await self._read.wait()

    async def read(self) -> AsyncIterator[bytes]:
        """Return all that has been added, whenever there is something, until the end."""
        while True:
            while not self._parts and not self._is_closed:
                self._changed = anyio.Event()
                await self._changed.wait()
            if not self._parts:
                return
            parts, self._parts = self._parts, []
            self._num_bytes = 0
            self._read.set()
            self._read = anyio.Event()
            yield b"".join(parts)
