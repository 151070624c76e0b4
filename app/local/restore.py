"""From a backup to an installation: the objects first and the database last, so that a restore that
was cut short is begun once more.
"""

import csv
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy import inspect

from app.base import migrate
from app.base.database import Database
from app.base.plain_words import in_plain_words
from app.base.settings import Settings
from app.base.storage import Storage, keys
from app.base.storage.hashing import Hashes
from app.base.storage.storage import chunks_of
from app.garbage import installation
from app.local.backup import (
    DUMPS,
    INVENTORY,
    MANIFEST,
    OBJECTS,
    BackupFailed,
    BackupManifest,
    Entry,
    refuse_pooled,
    run_tool,
)


@dataclass(frozen=True, slots=True)
class Restored:
    num_objects: int
    missing: list[str]  # Missing, or not as the inventory says.


def restore(settings: Settings, folder: Path) -> Restored:
    """Restore into an empty database, and an empty storage or the one that the backup is of.
    Raises `BackupFailed` and `Refused`.
    """
    manifest = _read_manifest(folder)
    storage = Storage(settings.resolved_storage_url)
    database = Database(settings.resolved_database_url)
    try:
        refuse_pooled(database)
        _refuse_other_kind(manifest, database)
        _refuse_used_database(database)
        _refuse_other_storage(manifest, storage)
        bring = _put_objects if manifest.with_objects else _compare_objects
        restored = bring(folder, storage, manifest)
        _restore_database(database, folder / DUMPS[manifest.database])
        migrate.upgrade(database)
        installation.check(database, storage)
    finally:
        database.dispose()
    return restored


def _read_manifest(folder: Path) -> BackupManifest:
    try:
        return BackupManifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise BackupFailed(f"{folder} holds no whole backup: {MANIFEST} is missing.") from None
    except ValidationError as error:
        reason = in_plain_words(error.errors()[0]).rstrip(".")
        raise BackupFailed(
            f"{folder / MANIFEST} is none that this version has written: {reason}."
        ) from None


def _refuse_other_kind(manifest: BackupManifest, database: Database) -> None:
    kind = database.engine.dialect.name
    if manifest.database != kind:
        raise BackupFailed(
            f"The backup is of {manifest.database}, and DATABASE_URL names {kind}: "
            "restore into the same kind."
        )


def _refuse_used_database(database: Database) -> None:
    if inspect(database.engine).get_table_names():
        raise BackupFailed(
            f"The database {database.engine.url.database} has tables already: restore into an "
            "empty one."
        )


def _refuse_other_storage(manifest: BackupManifest, storage: Storage) -> None:
    id_ = (storage.read(keys.installation()) or b"").decode(errors="replace").strip()
    if id_ == manifest.installation:
        return
    if id_:
        raise BackupFailed(f"The storage {storage.address} belongs to another installation, {id_}.")
    if any(storage.holds_any(root) for root in keys.ROOTS):
        raise BackupFailed(
            f"The storage {storage.address} holds objects of no known installation: restore into "
            "an empty one."
        )
    if not manifest.with_objects:
        raise BackupFailed(
            f"The backup lists objects and holds none, and {storage.address} is not the storage "
            "that it is of: put a copy of that one there first."
        )


def _inventory(folder: Path) -> Iterator[Entry]:
    with (folder / INVENTORY).open(newline="") as file:
        for number, row in enumerate(csv.reader(file), 1):
            try:
                key, size, sha256 = row
                yield Entry(key, int(size), sha256)
            except ValueError:
                raise BackupFailed(
                    f"{folder / INVENTORY}, line {number}: not a key, a size and a hash."
                ) from None


def _put_objects(folder: Path, storage: Storage, manifest: BackupManifest) -> Restored:
    """Bring every object, the installation's id first."""
    storage.replace(keys.installation(), manifest.installation.encode())
    num_objects = 1
    missing = []
    for entry in _inventory(folder):
        if entry.key == keys.installation():
            continue
        if _put_object(folder / OBJECTS / entry.key, storage, entry):
            num_objects += 1
        else:
            missing.append(entry.key)
    return Restored(num_objects, missing)


def _put_object(path: Path, storage: Storage, entry: Entry) -> bool:
    """Bring an object; False where its copy is not what the inventory says."""
    if not path.is_file():
        return False
    hashes = Hashes()
    with path.open("rb") as file:
        for chunk in chunks_of(file):
            hashes.update(chunk)
        copied = hashes.stored()
        if (copied.bytes, copied.sha256) != (entry.bytes, entry.sha256):
            return False
        if entry.key == keys.generation():
            storage.replace(entry.key, path.read_bytes())
            return True
        file.seek(0)
        storage.put(entry.key, chunks_of(file))
    return True


def _compare_objects(folder: Path, storage: Storage, _manifest: BackupManifest) -> Restored:
    """Look for what the inventory lists, batch by batch of the storage's own list."""
    expected = {entry.key: entry.bytes for entry in _inventory(folder)}
    expected.pop(keys.generation(), None)  # it has another number by now
    num_objects = len(expected)
    for batch in storage.objects(""):
        for listed in batch:
            if expected.get(listed.key) == listed.bytes:
                del expected[listed.key]
    return Restored(num_objects - len(expected), sorted(expected))


def _restore_database(database: Database, dump: Path) -> None:
    if database.engine.dialect.name == "postgresql":
        run_tool("pg_restore", database.engine.url, "--exit-on-error", "--no-owner", str(dump))
        return
    path = Path(database.engine.url.database or "")
    database.dispose()
    for rest in ("-wal", "-shm"):
        Path(f"{path}{rest}").unlink(missing_ok=True)
    new = path.with_name(f"{path.name}.new")
    shutil.copyfile(dump, new)
    new.chmod(0o600)
    os.replace(new, path)
