"""Backup and restore as docs/backup.md says: the database first, the objects after it."""

import hashlib
import json
import os
import shutil
import sqlite3
from contextlib import closing
from copy import copy
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.engine import make_url

from app.base import migrate
from app.base.database import Database
from app.base.settings import Settings
from app.base.storage import Storage
from app.garbage import collector, installation
from app.models import Artifact, Checkpoint, File, Installation, JobStatus
from falqon_core.contract.layout import MANIFEST
from tests.support.backend import Backend
from tests.support.fake_trainer import FakeTrainer
from tests.support.garbage import collect
from tests.support.postgres import PostgresServer


class Copies:
    """Dumps of a database, and new ones made from them, by the database's own tools."""

    def __init__(self, url: str, folder: Path, postgres: PostgresServer | None) -> None:
        self._url = url
        self._folder = folder
        self._postgres = postgres
        self._dump = folder / "dump"

    def dump(self) -> None:
        if self._postgres is not None:
            content = self._postgres.run_tool("pg_dump", "--format=custom", _plain(self._url))
            self._dump.write_bytes(content)
            return
        path = self._url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(self._dump)) as dump:
            source.backup(dump)

    def restore(self) -> str:
        """The address of a new database."""
        if self._postgres is not None:
            url = self._postgres.create_database("restored")
            command = ("pg_restore", "--exit-on-error", "--dbname", _plain(url))
            self._postgres.run_tool(*command, stdin=self._dump.read_bytes())
            return url
        new = self._folder / "new" / "falqon.db"
        new.parent.mkdir()
        shutil.copyfile(self._dump, new)
        return f"sqlite:///{new}"


def _plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.fixture
def copies(request: pytest.FixtureRequest, tmp_path: Path, database_url: str) -> Copies:
    server = None
    if not database_url.startswith("sqlite"):
        server = request.getfixturevalue("postgres")
    return Copies(database_url, tmp_path, server)


def restore(backend: Backend, copies: Copies, objects: Path, folder: Path) -> Backend:
    """On a machine that has nothing."""
    url = copies.restore()
    shutil.copytree(objects, folder / "objects")
    values = backend.settings.model_dump(exclude={"data_dir", "database_url"})
    restored = copy(backend)
    restored.settings = Settings(_env_file=None, data_dir=folder, database_url=url, **values)
    restored.database = Database(url)
    restored.storage = Storage(restored.settings.resolved_storage_url)
    migrate.upgrade(restored.database)
    installation.mark(restored.database, restored.storage)
    return restored


def verify(backend: Backend) -> int:
    """Read every object that a row names, and compare its SHA-256; how many."""
    with backend.database.read() as session:
        rows = [*session.scalars(select(File)), *session.scalars(select(Artifact))]
        checkpoints = session.scalars(select(Checkpoint)).all()
    expected = {row.storage_key: row.sha256 for row in rows}
    for checkpoint in checkpoints:
        key = f"{checkpoint.storage_prefix}/{MANIFEST}"
        expected[key] = checkpoint.manifest_sha256
        files = json.loads(b"".join(backend.storage.chunks(key)))["files"]
        expected |= {
            f"{checkpoint.storage_prefix}/{name}": file["sha256"] for name, file in files.items()
        }
    for key, sha256 in expected.items():
        assert hashlib.sha256(b"".join(backend.storage.chunks(key))).hexdigest() == sha256, key
    return len(expected)


def test_a_backup_is_restored_onto_an_empty_machine(
    backend: Backend, copies: Copies, tmp_path: Path
) -> None:
    done = backend.add_job()
    waiting = backend.add_job(FakeTrainer(steps=30))
    assert backend.supervisor().execute_next()
    installation.advance(backend.database, backend.storage)
    copies.dump()
    assert backend.supervisor().execute_next()  # the service works on while its objects are copied
    backend.add_job()
    installation.advance(backend.database, backend.storage)
    objects = tmp_path / "objects"
    shutil.copytree(backend.settings.data_dir / "objects", objects)
    shutil.rmtree(backend.settings.data_dir)

    restored = restore(backend, copies, objects, tmp_path / "new" / "data")
    assert verify(restored) > 10
    assert restored.job(done).status == JobStatus.SUCCEEDED
    for path in (tmp_path / "new" / "data" / "objects").rglob("*"):
        os.utime(path, (1, 1))
    with pytest.raises(installation.DatabaseRestored):
        collect(restored.database, restored.storage)
    while restored.supervisor().execute_next():
        pass
    assert restored.job(waiting).status == JobStatus.SUCCEEDED
    assert restored.weights(waiting)
    assert collector.confirm(restored.database, restored.storage) > 0
    with restored.database.read() as session:
        before = session.scalars(select(Installation.generation)).one()
    installation.advance(restored.database, restored.storage)
    with restored.database.read() as session:
        assert session.scalars(select(Installation.generation)).one() == before + 1
    verify(restored)
    restored.database.dispose()
