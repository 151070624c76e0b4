import math
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import AzureStore, GCSStore, LocalStore, ObjectStore, S3Store, from_url

from app.base.private_dir import private_folder
from app.base.storage import keys, reach
from app.base.storage.hashing import Hashes, Stored
from app.base.storage.reach import (
    KeyTaken,
    StorageUnavailable,
    StoreTimeouts,
    client_limits,
    translate_errors,
)
from falqon_core.fault_points import fault

CHUNK_BYTES = 2**20
MAX_COPIED_BYTES = 5 * 2**30  # largest object that an S3 store copies in one request
STAGED = ".staged-"
LISTED_AT_ONCE = 1000
CHECKED_SECONDS = 5.0  # seconds for which a check of the store's id stays valid
SIGNING = AzureStore, GCSStore, S3Store  # the stores that can
# Suffix that the object store adds to the name of a file that it is still writing.
UNFINISHED = re.compile(r"#\d+$")
PART_BYTES = 8 * 2**20  # object stores take at most 10,000 parts of one object
PARTS_AT_ONCE = 4  # in memory


@dataclass(frozen=True, slots=True)
class ListedObject:
    key: str
    bytes: int
    modified: datetime  # time of the storage's clock


class Storage:
    """Immutable objects by key, in a local folder or any object store obstore speaks to. Hashes on
    the way in and out.

    Operations raise `StorageUnavailable` while the store is unavailable. So do writes, and reads
    that find nothing, if the store is not the expected one: a folder that is not mounted is empty.
    """

    def __init__(self, url: str, patience: StoreTimeouts | None = None) -> None:
        """Use the timeouts of `patience` for an object store, or else those of a request."""
        limits = client_limits(patience or reach.FOR_REQUESTS)
        parts = urlsplit(url)
        # Text without possible secrets.
        self.address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._expected: bytes | None = None
        self._known_at = -math.inf
        self._root: Path | None = None
        self._store: ObjectStore
        if parts.scheme == "file":
            self._root = Path(unquote(parts.path))
            self._store = LocalStore(private_folder(self._root))
        elif parts.scheme == "memory":
            self._store = from_url(url)
        elif parts.scheme in ("s3", "s3a"):
            # The store refuses bytes that changed in transit.
            self._store = S3Store.from_url(
                url, checksum_algorithm="SHA256", copy_if_not_exists="multipart", **limits
            )
        else:
            self._store = from_url(url, **limits)

    def expect(self, installation_id: str) -> None:
        """Treat the store as unavailable from now on if it does not hold this id."""
        self._expected = installation_id.encode()

    def check_installation(self, *, afresh: bool = False) -> None:
        """Raise `StorageUnavailable` if the store is not the expected one. The id in an object
        store is read again after a while, or `afresh`.
        """
        age = time.monotonic() - self._known_at
        is_known = self._root is None and not afresh and age < CHECKED_SECONDS
        if self._expected is None or is_known:
            return
        content = self.read(keys.installation())
        if content is None:
            raise StorageUnavailable(f"{self.address} is empty, or not mounted")
        if content.strip() != self._expected:
            raise StorageUnavailable(f"{self.address} is the storage of another installation")
        self._known_at = time.monotonic()

    def put(self, key: str, chunks: Iterable[bytes]) -> Stored:
        """Write an object from a stream, which may come from this storage; it appears whole or not
        at all.

        Objects do not change: the same bytes again are accepted (a client retries after a lost
        response), others raise `KeyTaken`. Two writers at once are told apart by a folder, and by
        an object store as far as one part goes; of larger objects there each key has one writer, as
        it names the attempt.
        """
        return self._put(key, chunks, is_staged=self._root is not None, check=lambda: None)

    def put_untrusted(
        self, key: str, chunks: Iterable[bytes], num_bytes: int, check: Callable[[], object]
    ) -> Stored:
        """Write an object of a worker that may lie about being the only writer. `check` is called
        once all bytes are here and raises if they may not be written any more. `num_bytes`: as
        announced by the writer.
        """
        return self._put(key, chunks, is_staged=num_bytes <= MAX_COPIED_BYTES, check=check)

    def _put(
        self, key: str, chunks: Iterable[bytes], *, is_staged: bool, check: Callable[[], object]
    ) -> Stored:
        if key != keys.installation():
            self.check_installation()
        stored = self._write(key, chunks, is_staged=is_staged, check=check)
        if self._root is not None and key != keys.installation():
            self.check_installation()  # otherwise it would go into the folder below the mount point
        return stored

    def _write(
        self, key: str, chunks: Iterable[bytes], *, is_staged: bool, check: Callable[[], object]
    ) -> Stored:
        """Write under a temporary key first where `is_staged`, and move the object into place only
        if the key is free. For an object that is too large to be copied the key is checked once
        more at the end.
        """
        hashes = Hashes()
        buffer = bytearray()
        rest = _hash_chunks(chunks, hashes)
        for chunk in rest:
            buffer += chunk
            if len(buffer) > PART_BYTES:
                break
        else:
            check()
            return self._create(key, bytes(buffer), hashes.stored())
        if self._stands(key):
            for _ in rest:
                pass
            return self._compared(key, hashes.stored())
        target = f"{key}{STAGED}{secrets.token_hex(8)}" if is_staged else key
        with ExitStack() as opened:
            writer = opened.enter_context(
                obstore.open_writer(
                    self._store, target, buffer_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE
                )
            )
            with translate_errors():
                writer.write(bytes(buffer))
            buffer.clear()  # one part less in memory
            for chunk in rest:  # errors of the source are not errors of the store
                with translate_errors():
                    writer.write(chunk)
            check()
            if not is_staged and self._stands(key):
                raise KeyTaken(f"an object stands under {key} already")
            with translate_errors():
                opened.close()
        if is_staged:
            return self._place(target, key, hashes.stored())
        self._sync(key)
        return hashes.stored()

    def _place(self, staged: str, key: str, stored: Stored) -> Stored:
        """Move a staged object into place, if the key is free."""
        try:
            with translate_errors():
                obstore.copy(self._store, staged, key, overwrite=False)
        except AlreadyExistsError:
            return self._compared(key, stored)
        finally:
            self.delete(staged)
        self._sync(key)
        return stored

    def _create(self, key: str, content: bytes, stored: Stored) -> Stored:
        try:
            with translate_errors():
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
            with translate_errors():
                obstore.head(self._store, key)
        except FileNotFoundError:
            return False
        return True

    def put_file(self, key: str, path: Path) -> Stored:
        with path.open("rb") as file:
            return self.put(key, chunks_of(file))

    def chunks(self, key: str, part: tuple[int, int] | None = None) -> Iterator[bytes]:
        """Yield the object, or [start, end) of it, in one request."""
        try:
            with translate_errors():
                yield from self._chunks(key, part)
        except FileNotFoundError:
            self.check_installation(afresh=True)
            raise

    def _chunks(self, key: str, part: tuple[int, int] | None) -> Iterator[bytes]:
        # The store reads it in small pieces, at a third of the speed.
        if (path := self.local_path(key)) is not None:
            yield from _read_file(path, part)
            return
        result = obstore.get(self._store, key, options={"range": part} if part else {})
        for chunk in result.stream(min_chunk_size=CHUNK_BYTES):
            yield bytes(chunk)

    def signed_url(self, key: str, lifetime: timedelta) -> str | None:
        """Return an address that everyone may read for so long; None if the store makes none."""
        if isinstance(self._store, SIGNING):
            return obstore.sign(self._store, "GET", key, expires_in=lifetime)
        return None

    def signed_upload(self, key: str, lifetime: timedelta) -> str | None:
        """Return an address that accepts an object in one PUT for so long; None if the store makes
        none, or needs more than a PUT.
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
        """Check that the storage accepts writes."""
        self.check_installation(afresh=True)
        with translate_errors():
            if self._root is None:
                obstore.put(self._store, keys.probe(), b"ok")
                return
            try:  # The store would make the folder of a mount that went a moment ago.
                (self._root / keys.probe()).write_bytes(b"ok")
            except FileNotFoundError:
                raise StorageUnavailable(f"{self.address} is not mounted") from None

    def keys(self, prefix: str) -> list[str]:
        with translate_errors():
            return [meta["path"] for batch in obstore.list(self._store, prefix) for meta in batch]

    def now(self) -> datetime:
        """Return the time on the storage's own clock."""
        self.probe()
        with translate_errors():
            modified: datetime = obstore.head(self._store, keys.probe())["last_modified"]
        return modified

    def objects(self, prefix: str) -> Iterator[list[ListedObject]]:
        """Yield all objects, in batches."""
        with translate_errors():
            for batch in obstore.list(self._store, prefix, chunk_size=LISTED_AT_ONCE):
                yield [
                    ListedObject(meta["path"], meta["size"], meta["last_modified"])
                    for meta in batch
                ]

    def holds_any(self, prefix: str) -> bool:
        """Return True if the key of an object begins with this prefix."""
        with translate_errors():
            return any(obstore.list(self._store, prefix, chunk_size=1))

    def read(self, key: str) -> bytes | None:
        """Read a small object whole; None if there is none."""
        with translate_errors():
            try:
                return bytes(obstore.get(self._store, key).bytes())
            except FileNotFoundError:
                pass
        if key != keys.installation():
            self.check_installation(afresh=True)
        return None

    def replace(self, key: str, content: bytes) -> None:
        """Write an object that may change, whole or not at all."""
        with translate_errors():
            obstore.put(self._store, key, content)
            self._sync(key)

    def remove_unfinished(self, age: timedelta) -> None:
        """Remove the files that killed writers left in a local folder, under names that are no
        keys.

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
        """Delete the objects that exist."""
        self.check_installation()
        try:
            with translate_errors():
                obstore.delete(self._store, list(keys))
        except FileNotFoundError:  # a local folder stops at what is gone already
            for key in keys:
                with suppress(FileNotFoundError), translate_errors():
                    obstore.delete(self._store, key)

    @property
    def local_root(self) -> Path | None:
        """Return the root folder, if the store is on this machine."""
        return self._root

    def local_path(self, key: str) -> Path | None:
        """Return the object as a file of this machine, if the store is a local folder."""
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


def _hash_chunks(chunks: Iterable[bytes], hashes: Hashes) -> Iterator[bytes]:
    for chunk in chunks:
        hashes.update(chunk)
        fault("storage_write")
        yield chunk


def _read_file(path: Path, part: tuple[int, int] | None) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        start, end = part or (0, os.fstat(file.fileno()).st_size)
        file.seek(start)
        while start < end and (chunk := file.read(min(CHUNK_BYTES, end - start))):
            start += len(chunk)
            yield chunk
