import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import AzureStore, GCSStore, LocalStore, ObjectStore, S3Store, from_url

from app.base.private_dir import private_folder
from app.base.storage import keys, reach
from app.base.storage.hashing import Hashes, Stored
from app.base.storage.reach import KeyTaken, Patience, client_limits, reaching
from falqon_core.fault_points import fault

CHUNK_BYTES = 2**20
LISTED_AT_ONCE = 1000
SIGNING = AzureStore, GCSStore, S3Store  # the stores that can
# the object store adds it to the name of a file that it is still writing
UNFINISHED = re.compile(r"#\d+$")
PART_BYTES, PARTS_AT_ONCE = (
    8 * 2**20,
    4,
)  # object stores take at most 10,000 parts of one object; memory holds these at once


class Listed(NamedTuple):
    key: str
    bytes: int
    modified: datetime  # by the storage's clock


class Storage:
    """Immutable objects by key, in a local folder or any object store obstore speaks to. Hashes on
    the way in and out.

    Whatever needs the store raises `StorageAway` while it is away.
    """

    def __init__(self, url: str, patience: Patience | None = None) -> None:
        """Wait for an object store as long as `patience` says, or else as long as a request may."""
        limits = client_limits(patience or reach.FOR_REQUESTS)
        parts = urlsplit(url)
        # without what may be a secret
        self.address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._root: Path | None = None
        self._store: ObjectStore
        if parts.scheme == "file":
            self._root = Path(unquote(parts.path))
            self._store = LocalStore(private_folder(self._root))
        elif parts.scheme == "memory":
            self._store = from_url(url)
        elif parts.scheme in ("s3", "s3a"):
            # the store refuses bytes that changed on the way to it
            self._store = S3Store.from_url(url, checksum_algorithm="SHA256", **limits)
        else:
            self._store = from_url(url, **limits)

    def put(self, key: str, chunks: Iterable[bytes]) -> Stored:
        """Write an object from a stream, which may come from this storage; it appears whole or not
        at all.

        Objects do not change: the same bytes again are fine (whose answer was lost sends them
        twice), others raise `KeyTaken`. Two writers at once of what fits into one part are told
        apart by the store; of larger objects each key has one writer, as it names the attempt.
        """
        hashes = Hashes()
        buffer = bytearray()
        rest = _hashed(chunks, hashes)
        for chunk in rest:
            buffer += chunk
            if len(buffer) > PART_BYTES:
                break
        else:
            return self._create(key, bytes(buffer), hashes.stored())
        if self._stands(key):
            for _ in rest:
                pass
            return self._compared(key, hashes.stored())
        with ExitStack() as opened:
            writer = opened.enter_context(
                obstore.open_writer(
                    self._store, key, buffer_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE
                )
            )
            with reaching():
                writer.write(bytes(buffer))
            buffer.clear()  # a part less in memory
            for chunk in rest:  # whose own errors are none of the store's
                with reaching():
                    writer.write(chunk)
            with reaching():
                opened.close()
        self._sync(key)
        return hashes.stored()

    def _create(self, key: str, content: bytes, stored: Stored) -> Stored:
        try:
            with reaching():
                obstore.put(self._store, key, content, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return self._compared(key, stored)
        self._sync(key)
        return stored

    def _compared(self, key: str, stored: Stored) -> Stored:
        there = Hashes()
        for chunk in self.chunks(key):
            there.update(chunk)
        if there.stored() != stored:
            raise KeyTaken(f"other bytes stand under {key} already")
        return stored

    def _stands(self, key: str) -> bool:
        try:
            with reaching():
                obstore.head(self._store, key)
        except FileNotFoundError:
            return False
        return True

    def put_file(self, key: str, path: Path) -> Stored:
        with path.open("rb") as file:
            return self.put(key, chunks_of(file))

    def chunks(self, key: str, part: tuple[int, int] | None = None) -> Iterator[bytes]:
        """Yield the object, or [start, end) of it, in one request."""
        # the store reads it in small pieces, at a third of the speed
        if (path := self.local_path(key)) is not None:
            with reaching():
                yield from _of_file(path, part)
            return
        with reaching():
            result = obstore.get(self._store, key, options={"range": part} if part else {})
            for chunk in result.stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)

    def signed_url(self, key: str, lifetime: timedelta) -> str | None:
        """Return an address that anybody may read for so long; None if the store makes none."""
        if isinstance(self._store, SIGNING):
            return obstore.sign(self._store, "GET", key, expires_in=lifetime)
        return None

    def signed_upload(self, key: str, lifetime: timedelta) -> str | None:
        """Return an address that takes an object by one PUT for so long; None if the store makes
        none, or wants more than a PUT.
        """
        if isinstance(self._store, S3Store):
            return obstore.sign(self._store, "PUT", key, expires_in=lifetime)
        return None

    def fetch(self, key: str, path: Path) -> Stored:
        """Copy an object to a local file."""
        hashes = Hashes()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for chunk in self.chunks(key):
                hashes.update(chunk)
                fault("storage_fetch")
                file.write(chunk)
        return hashes.stored()

    def probe(self) -> None:
        """Learn whether the storage takes writes."""
        with reaching():
            obstore.put(self._store, keys.probe(), b"ok")

    def keys(self, prefix: str) -> list[str]:
        with reaching():
            return [meta["path"] for batch in obstore.list(self._store, prefix) for meta in batch]

    def now(self) -> datetime:
        """Return the time on the storage's own clock."""
        self.probe()
        with reaching():
            modified: datetime = obstore.head(self._store, keys.probe())["last_modified"]
        return modified

    def objects(self, prefix: str) -> Iterator[list[Listed]]:
        """Yield all of them, in batches."""
        with reaching():
            for batch in obstore.list(self._store, prefix, chunk_size=LISTED_AT_ONCE):
                yield [Listed(meta["path"], meta["size"], meta["last_modified"]) for meta in batch]

    def holds_any(self, prefix: str) -> bool:
        """Return whether an object's key begins so."""
        with reaching():
            return any(obstore.list(self._store, prefix, chunk_size=1))

    def read(self, key: str) -> bytes | None:
        """Read a small object whole; None where there is none."""
        with reaching():
            try:
                return bytes(obstore.get(self._store, key).bytes())
            except FileNotFoundError:
                return None

    def replace(self, key: str, content: bytes) -> None:
        """Write an object that does change, whole or not at all."""
        with reaching():
            obstore.put(self._store, key, content)
            self._sync(key)

    def remove_unfinished(self, age: timedelta) -> None:
        """Remove what killed writers left in a local folder, under names that are no keys.

        Buckets have a rule of their own for it.
        """
        if self._root is None:
            return
        for folder, _, names in os.walk(self._root):
            for path in (Path(folder, name) for name in names if UNFINISHED.search(name)):
                with suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > age.total_seconds():
                        path.unlink()

    def delete(self, *keys: str) -> None:
        """Delete those objects that exist."""
        try:
            with reaching():
                obstore.delete(self._store, list(keys))
        except FileNotFoundError:  # a local folder stops at what is gone already
            for key in keys:
                with suppress(FileNotFoundError), reaching():
                    obstore.delete(self._store, key)

    @property
    def local_root(self) -> Path | None:
        """Return the folder that holds everything, where the store is one of this machine."""
        return self._root

    def local_path(self, key: str) -> Path | None:
        """Return the object as a file of this machine, where the store is a local folder."""
        return None if self._root is None else self._root / key

    def _sync(self, key: str) -> None:
        # The store renames into place but does not wait for the disk; a row may only name bytes
        # that survive a power cut.
        path = self.local_path(key)
        if path is None:
            return
        for target, flags in ((path, os.O_RDONLY), (path.parent, os.O_RDONLY | os.O_DIRECTORY)):
            descriptor = os.open(target, flags)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def chunks_of(content: BinaryIO) -> Iterator[bytes]:
    """Read a stream to its end."""
    return iter(lambda: content.read(CHUNK_BYTES), b"")


def _hashed(chunks: Iterable[bytes], hashes: Hashes) -> Iterator[bytes]:
    for chunk in chunks:
        hashes.update(chunk)
        fault("storage_write")
        yield chunk


def _of_file(path: Path, part: tuple[int, int] | None) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        start, end = part or (0, os.fstat(file.fileno()).st_size)
        file.seek(start)
        while start < end and (chunk := file.read(min(CHUNK_BYTES, end - start))):
            start += len(chunk)
            yield chunk
