"""SHA-256 of an object as a whole and of each of its blocks, in one pass: a block corrupted in
transit is fetched again alone.
"""

import hashlib
from typing import NamedTuple

BLOCK_BYTES = 64 * 2**20


class Stored(NamedTuple):
    bytes: int
    sha256: str
    block_sha256: list[str]  # hashes of every BLOCK_BYTES, the last block shorter; at least one


class Hashes:
    def __init__(self) -> None:
        self._size = 0
        self._whole = hashlib.sha256()
        self._block = hashlib.sha256()
        self._blocks: list[str] = []

    def update(self, chunk: bytes) -> None:
        left = memoryview(chunk)
        while left:
            if self._size and self._size % BLOCK_BYTES == 0:
                self._blocks.append(self._block.hexdigest())
                self._block = hashlib.sha256()
            room = BLOCK_BYTES - self._size % BLOCK_BYTES
            part = left[:room]
            left = left[room:]
            self._whole.update(part)
            self._block.update(part)
            self._size += len(part)

    def stored(self) -> Stored:
        return Stored(self._size, self._whole.hexdigest(), [*self._blocks, self._block.hexdigest()])
