"""One object of the service into one local file: block by block, each proved by its SHA-256 before
the next one is asked for.

Bytes on disk, of this download or of a file that went bad, are checked first and kept
where it is right. So after `kill -9` only what is missing travels, and of a damaged file only its
damaged blocks; the file has its name only when it is whole.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx

from app.client.api import Api
from app.client.errors import ApiUnavailable, ClientError, Refused

# Between tries that bring nothing at all; any byte begins them again. A minute together: a service
# that is started again is waited for.
RETRY_DELAYS_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
READ_TIMEOUT_SECONDS = 60.0
CONTENT_RANGE = re.compile(r"bytes (\d+)-")
READ_BYTES = 2**20

# The number of bytes that are there now; smaller than before where a part was given up.
Moved = Callable[[int], None]


class Digest:
    """SHA-256 of a block, and of the object up to here."""

    def __init__(self, before: "Digest | None" = None) -> None:
        self._block = hashlib.sha256()
        self._object: hashlib._Hash = before._object.copy() if before else hashlib.sha256()

    def update(self, chunk: bytes) -> None:
        self._block.update(chunk)
        self._object.update(chunk)

    @property
    def of_block(self) -> str:
        return self._block.hexdigest()

    @property
    def of_object(self) -> str:
        return self._object.hexdigest()


@dataclass(frozen=True, slots=True)
class Block:
    start: int
    end: int
    sha256: str


@dataclass(frozen=True, slots=True)
class RemoteObject:
    """The properties of an object, as the service reports them."""

    path: str
    bytes: int
    sha256: str
    blocks: list[Block]

    @classmethod
    def whole(cls, path: str, size: int, sha256: str) -> "RemoteObject":
        """Return the plan of one block, where only the hash of the whole is known."""
        return cls(path, size, sha256, [Block(0, size, sha256)])


class Damaged(Exception):
    """A block came twice, and both times not as promised."""


def fetch(api: Api, source: RemoteObject, target: Path, moved: Moved) -> None:
    part = target.with_name(f".{target.name}.{source.sha256[:12]}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_file():
            if _is_right(target, source):
                part.unlink(missing_ok=True)
                moved(source.bytes)
                return
            if not part.exists():
                _take_up(target, part, source)
        with part.open("r+b" if part.exists() else "x+b") as file:
            digest = Digest()
            for block in source.blocks:
                digest = _complete(api, source, block, file, digest, moved)
            if digest.of_object != source.sha256:
                raise Damaged
            file.truncate(source.bytes)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except Damaged:
        part.unlink()
        raise Refused(
            f"{target} arrived damaged: its sha256 is not {source.sha256}.",
            "Nothing is kept of it; run the command again.",
        ) from None
    except OSError as error:
        raise Refused(
            f"{target} cannot be written: {error.strerror}.",
            "Run the same command again; it goes on where it stopped.",
        ) from None


def _take_up(target: Path, part: Path, source: RemoteObject) -> None:
    """Keep what is right in a damaged file; where its length differs, no block is taken up."""
    target.replace(part)
    if (size := part.stat().st_size) != source.bytes:
        os.truncate(part, size - size % max(1, source.blocks[0].end))


def _complete(
    api: Api, source: RemoteObject, block: Block, file: BinaryIO, before: Digest, moved: Moved
) -> Digest:
    """The file holds this block and those before it; the digest of all that."""
    digest = Digest(before)
    have = _read(file, block, digest)
    if have == block.end and digest.of_block == block.sha256:
        moved(block.end)
        return digest
    if have < block.end and _arrives(api, source, block, file, have, digest, moved):
        return digest
    # The beginning may be wrong; or all of it was here and is damaged.
    digest = Digest(before)
    if not _arrives(api, source, block, file, block.start, digest, moved):
        raise Damaged
    return digest


def _read(file: BinaryIO, block: Block, digest: Digest) -> int:
    """Return the hash of the file's part of this block, and the end of that part."""
    position = block.start
    file.seek(position)
    while position < block.end and (chunk := file.read(min(READ_BYTES, block.end - position))):
        digest.update(chunk)
        position += len(chunk)
    return position


def _arrives(
    api: Api,
    source: RemoteObject,
    block: Block,
    file: BinaryIO,
    position: int,
    digest: Digest,
    moved: Moved,
) -> bool:
    """Fetch what is missing from `position` on, through interruptions; whether the block is then
    the one that was promised.
    """
    failures = 0
    file.seek(position)
    while position < block.end:
        before = position
        try:
            for chunk in _chunks(api, source, position, block.end):
                file.write(chunk)
                digest.update(chunk)
                position += len(chunk)
                moved(position)
        except (httpx.TransportError, ApiUnavailable) as error:
            failures = 0 if position > before else failures + 1
            if failures > len(RETRY_DELAYS_SECONDS):
                raise _interrupted(api, error) from None
            time.sleep(RETRY_DELAYS_SECONDS[max(0, failures - 1)])
    return digest.of_block == block.sha256


def _chunks(api: Api, source: RemoteObject, start: int, end: int) -> Iterator[bytes]:
    """Yield at most these bytes.

    An object store that the service redirects to knows nothing of the service's validators, so none
    is sent: the hash of the block decides.
    """
    headers = {"accept-encoding": "identity", "range": f"bytes={start}-{end - 1}"}
    left = end - start
    with api.stream(source.path, headers=headers, silence_seconds=READ_TIMEOUT_SECONDS) as response:
        if response.status_code == httpx.codes.PARTIAL_CONTENT:
            match = CONTENT_RANGE.match(response.headers.get("content-range", ""))
            if match is None or int(match[1]) != start:
                raise Refused(f"{response.url} sent another part than the one asked for.")
        elif start > 0:
            raise Refused(
                f"{response.url} sends only the whole, and cannot be taken up where it broke."
            )
        for chunk in response.iter_raw():
            yield chunk[:left]
            left -= len(chunk)
            if left < 0:  # A server that sends the whole sends no more than this.
                return
        if left > 0:
            raise httpx.RemoteProtocolError("The answer ended before its time.")


def _is_right(target: Path, source: RemoteObject) -> bool:
    with target.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == source.sha256


def _interrupted(api: Api, error: httpx.TransportError | ApiUnavailable) -> ClientError:
    gone = error if isinstance(error, ApiUnavailable) else api.unreachable(error)
    gone.hint = "Run the same command again; it goes on where it stopped."
    return gone
