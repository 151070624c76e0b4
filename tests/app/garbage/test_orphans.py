from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from app.base.database import Database, now
from app.base.errors import Unavailable
from app.base.storage import Storage
from app.garbage import orphans
from app.models import Orphan


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage((tmp_path / "objects").as_uri())


def make_due(database: Database) -> None:
    with database.transaction() as session:
        session.execute(update(Orphan).values(due_at=now(session) - timedelta(seconds=1)))


def keys(database: Database) -> list[str]:
    with database.read() as session:
        return sorted(session.scalars(select(Orphan.storage_key)))


def test_bytes_that_no_row_adopts_go_when_they_are_due(
    database: Database, storage: Storage
) -> None:
    assert orphans.put(database, storage, "a", [b"1"]).bytes == 1
    assert orphans.sweep(database, storage) == 0
    assert storage.keys("") == ["a"], "somebody may still be writing them"
    make_due(database)
    assert orphans.sweep(database, storage) == 1
    assert (storage.keys(""), keys(database)) == ([], [])


def test_adopted_bytes_stay(database: Database, storage: Storage) -> None:
    for key in ("a", "b"):
        orphans.put(database, storage, key, [b"1"])
    with database.transaction() as session:
        orphans.claim(session, "a")
    make_due(database)
    orphans.sweep(database, storage)
    assert storage.keys("") == ["a"]
    with database.transaction() as session:
        orphans.mark_orphaned(session, ["a"])
    make_due(database)
    orphans.sweep(database, storage)
    assert storage.keys("") == []


def test_an_adoption_that_is_rolled_back_is_none(database: Database, storage: Storage) -> None:
    orphans.put(database, storage, "a", [b"1"])
    with database.transaction() as session:
        orphans.claim(session, "a")
        session.rollback()
    assert keys(database) == ["a"]


def test_an_object_being_removed_is_not_claimed(
    database: Database, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphans.put(database, storage, "a", [b"1"])
    make_due(database)
    delete = storage.delete

    def claim_meanwhile(*keys: str) -> None:
        with pytest.raises(Unavailable), database.transaction() as session:
            orphans.claim(session, "a")
        delete(*keys)

    monkeypatch.setattr(storage, "delete", claim_meanwhile)
    assert orphans.sweep(database, storage) == 1
    assert storage.keys("") == []


def test_a_sweep_that_was_cut_short_is_repeated(
    database: Database, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("a", "b"):
        orphans.put(database, storage, key, [b"1"])
    make_due(database)

    def away(*_: str) -> None:
        raise OSError("away")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "delete", away)
        with pytest.raises(OSError, match="away"):
            orphans.sweep(database, storage)
    assert keys(database) == ["a", "b"]
    assert orphans.sweep(database, storage) == 0, "a while later"
    storage.delete("a")  # as if the crash had come in the middle
    make_due(database)
    assert orphans.sweep(database, storage) == 2
    assert (storage.keys(""), keys(database)) == ([], [])


def test_objects_that_nobody_announced_are_left_alone(database: Database, storage: Storage) -> None:
    storage.put("models/base/model.safetensors", [b"1"])
    orphans.put(database, storage, "a", [b"1"])
    make_due(database)
    orphans.sweep(database, storage)
    assert storage.keys("") == ["models/base/model.safetensors"]
