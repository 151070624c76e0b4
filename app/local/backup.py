"""A copy of an installation in a folder: the database first, which must not be newer than the
objects that it names, then the objects, or a list of them.

`backup.json` is written last: a folder without it holds no whole backup.
"""

import csv
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel
from sqlalchemy import URL, inspect

from app.base.database import Database
from app.base.private_dir import private_files, private_folder
from app.base.storage import Storage, keys
from app.garbage import installation
from app.models import Installation

MANIFEST, INVENTORY, OBJECTS = "backup.json", "inventory.csv", "objects"
DUMPS = {"sqlite": "database.sqlite", "postgresql": "database.dump"}
MAX_ERROR_CHARACTERS = 500  # Characters of a tool's output.


class BackupFailed(Exception):
    """A sentence that says what is in the way, and what to do."""


class BackupManifest(BaseModel):
    """The content of `backup.json`."""

    format: Literal[1] = 1
    installation: str
    created_at: datetime
    database: Literal["sqlite", "postgresql"]
    storage: str  # Address without secrets.
    with_objects: bool
    num_objects: int


class Entry(NamedTuple):
    """An object of the inventory; its hash is empty where it was not copied."""

    key: str
    bytes: int
    sha256: str


def back_up(
    database: Database, storage: Storage, folder: Path, *, with_objects: bool
) -> BackupManifest:
    """Write a backup into an empty folder, for this user alone: it holds tokens as they are. Raises
    `BackupFailed` and `Refused`.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BackupFailed(f"{folder} is not empty: name a new folder for each backup.")
    refuse_pooled(database)
    if not inspect(database.engine).has_table(Installation.__tablename__):
        raise BackupFailed(f"The database {database.engine.url.database} holds no installation.")
    id_ = installation.check(database, storage).id
    with private_files():
        return _write(database, storage, folder, id_, with_objects=with_objects)


def _write(
    database: Database, storage: Storage, folder: Path, id_: str, *, with_objects: bool
) -> BackupManifest:
    private_folder(folder)
    kind = database.engine.dialect.name
    dump = folder / DUMPS[kind]
    if kind == "sqlite":
        _copy_sqlite(Path(database.engine.url.database or ""), dump)
    else:
        run_tool("pg_dump", database.engine.url, "--format=custom", f"--file={dump}")
    num_objects = 0
    with (folder / INVENTORY).open("w", newline="") as file:
        writer = csv.writer(file)
        for entry in _entries(storage, folder / OBJECTS if with_objects else None):
            writer.writerow(entry)
            num_objects += 1
    manifest = BackupManifest(
        installation=id_,
        created_at=datetime.now(UTC),
        database="sqlite" if kind == "sqlite" else "postgresql",
        storage=storage.address,
        with_objects=with_objects,
        num_objects=num_objects,
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
    return manifest


def refuse_pooled(database: Database) -> None:
    if database.is_pooled:
        raise BackupFailed(
            "DATABASE_URL leads through PgBouncer (pgbouncer=true): give this command Postgres' "
            "own address."
        )


def run_tool(program: str, url: URL, *options: str) -> None:
    """Run one of Postgres' own programs on a database. Its password is in no list of processes."""
    path = shutil.which(program)
    if path is None:
        raise BackupFailed(
            f"{program} is not on PATH: install the client programs of Postgres, in the version of "
            "the server or newer (Debian: postgresql-client)."
        )
    plain = url.set(drivername="postgresql")._replace(password=None)
    secret = {} if url.password is None else {"PGPASSWORD": str(url.password)}
    command = [path, "--no-password", f"--dbname={plain.render_as_string()}", *options]
    done = subprocess.run(
        command, env=os.environ | secret, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        complaint = done.stderr.strip()[:MAX_ERROR_CHARACTERS]
        raise BackupFailed(f"{program} ended with {done.returncode}: {complaint}")


def _copy_sqlite(path: Path, dump: Path) -> None:
    """Copy the database while others write to it, with what is in its write-ahead log."""
    try:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(dump)) as copy:
            source.backup(copy)
    except sqlite3.Error as error:
        raise BackupFailed(f"{path} cannot be copied to {dump}: {error}.") from None


def _entries(storage: Storage, copies: Path | None) -> Iterator[Entry]:
    """Yield every object, copied if there is a folder for it; those that go meanwhile had lost
    their row before.
    """
    for batch in storage.objects(""):
        for listed in batch:
            if listed.key == keys.probe():
                continue
            if copies is None:
                yield Entry(listed.key, listed.bytes, "")
                continue
            path = copies / listed.key
            try:
                stored = storage.fetch(listed.key, path)
            except FileNotFoundError:
                path.unlink(missing_ok=True)
                continue
            yield Entry(listed.key, stored.bytes, stored.sha256)
