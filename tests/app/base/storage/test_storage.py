import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.base.storage import Storage
from app.base.storage.reach import KeyTaken, StorageUnavailable

MIB = os.urandom(2**20)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path.as_uri())


def test_an_object_comes_back_with_its_hash(storage: Storage) -> None:
    stored = storage.put("a/b", [MIB] * 20)
    whole = hashlib.sha256(MIB * 20).hexdigest()
    assert stored == (20 * 2**20, whole, [whole])
    assert b"".join(storage.chunks("a/b")) == MIB * 20
    assert storage.put("a/empty", []).bytes == 0
    assert storage.put("a/copy", storage.chunks("a/b")) == stored, (
        "a stream may come from the same storage"
    )


def test_a_stream_that_breaks_leaves_nothing(storage: Storage, tmp_path: Path) -> None:
    def breaking() -> Iterator[bytes]:
        yield from [MIB] * 40
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        storage.put("a/b", breaking())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("url", ["file", "memory"])
def test_deleting_what_is_gone_deletes_the_rest(tmp_path: Path, url: str) -> None:
    storage = Storage(tmp_path.as_uri() if url == "file" else "memory:///")
    for key in ("a/1", "a/2", "a/3"):
        storage.put(key, [b"x"])
    storage.delete("a/1", "a/missing", "a/2")
    assert storage.keys("a") == ["a/3"]


def test_the_later_of_two_simultaneous_large_writers_is_refused(
    storage: Storage, tmp_path: Path
) -> None:
    def interrupted() -> Iterator[bytes]:
        yield from [MIB] * 20
        storage.put("a/b", [MIB[::-1]] * 20)
        yield b"?"

    def repeated() -> Iterator[bytes]:
        yield from [MIB[::-1]] * 20
        storage.put("a/b", [MIB[::-1]] * 20)

    with pytest.raises(KeyTaken):
        storage.put("a/b", interrupted())
    assert storage.put("a/b", repeated()).bytes == 20 * 2**20
    assert b"".join(storage.chunks("a/b")) == MIB[::-1] * 20
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["b"]


def test_a_probe_does_not_make_the_folder_of_a_mount_that_went(
    storage: Storage, tmp_path: Path
) -> None:
    storage.probe()
    tmp_path.rename(tmp_path.with_name("elsewhere"))
    with pytest.raises(StorageUnavailable):
        storage.probe()
    assert not tmp_path.exists()
