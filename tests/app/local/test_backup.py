"""`falqon admin backup` and `restore`, on both databases."""

import json
import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from click.testing import Result
from sqlalchemy import make_url, text

from app.base import migrate
from app.base.database import Database
from app.base.settings import Settings
from app.base.storage import Storage
from app.garbage import installation
from app.local.backup import INVENTORY, MANIFEST, OBJECTS, back_up
from app.local.restore import restore
from app.models import Job, JobStatus
from tests.support.admin import falqon_admin
from tests.support.backend import Backend
from tests.support.postgres import PostgresServer
from tests.support.records import Records

Admin = Callable[..., Result]


@pytest.fixture
def admin(
    backend: Backend,
    database_url: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Admin:
    """The command, on the installation of the test or, with `into`, on an empty one."""
    postgres: PostgresServer | None = None
    if not database_url.startswith("sqlite"):
        postgres = request.getfixturevalue("postgres")
        monkeypatch.setenv("PATH", f"{postgres.programs}:{os.environ['PATH']}")

    def run(*arguments: str, into: Path | None = None, **settings: str) -> Result:
        environment = backend.environment() | {"PATH": os.environ["PATH"]}
        if into is not None:
            into.mkdir(exist_ok=True)
            url = f"sqlite:///{into / 'falqon.db'}"
            if postgres is not None:
                url = postgres.create_database("restored")
            (into / "url").write_text(url)
            environment |= {"DATABASE_URL": url, "FALQON_DATA_DIR": str(into)}
            environment |= {"STORAGE_URL": (into / "objects").as_uri()}
        return falqon_admin(environment | settings, *arguments)

    return run


def records_of(folder: Path) -> Records:
    database = Database((folder / "url").read_text())
    return Records(database, Storage((folder / "objects").as_uri()))


def test_a_backup_is_restored_into_an_empty_installation(
    backend: Backend, admin: Admin, tmp_path: Path
) -> None:
    job_id = backend.add_job()
    assert backend.supervisor().execute_next()
    (tmp_path / "backup").mkdir(mode=0o755)
    written = admin("backup", str(tmp_path / "backup"))
    assert written.exit_code == 0, written.output
    assert "FALQON_SESSION_SECRET" in written.output
    others = stat.S_IRWXG | stat.S_IRWXO
    paths = list((tmp_path / "backup").rglob("*"))
    assert paths
    assert not [path for path in paths if path.stat().st_mode & others]
    later = backend.add_job()
    into = tmp_path / "new"
    restored = admin("restore", str(tmp_path / "backup"), into=into)
    assert restored.exit_code == 0, restored.output
    records = records_of(into)
    assert records.job(job_id).status == JobStatus.SUCCEEDED
    assert records.weights(job_id) == backend.weights(job_id)
    with pytest.raises(Exception, match="No row"):
        records.job(later)
    records.database.dispose()
    again = admin("restore", str(tmp_path / "backup"))
    assert again.exit_code == 1
    assert "has tables already" in again.output


def test_a_backup_keeps_the_schema_of_its_database(
    backend: Backend, admin: Admin, tmp_path: Path
) -> None:
    """Before an upgrade the new version makes it, which must not begin to upgrade."""
    with backend.database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0050'"))
    written = admin("backup", str(tmp_path / "backup"))
    assert written.exit_code == 0, written.output
    assert migrate.compare_schema(backend.database) == "too old"
    empty = admin("backup", str(tmp_path / "other"), into=tmp_path / "empty")
    assert (empty.exit_code, "holds no installation" in empty.output) == (1, True)


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
@pytest.mark.usefixtures("admin")
def test_a_password_is_given_to_the_programs_of_postgres(
    short_tmp: Path, tmp_path: Path, database_url: str
) -> None:
    server = PostgresServer(short_tmp / "pg-with-passwords")
    try:
        first, second = (_with_password(server, name) for name in ("first", "second"))
        rules = "local all falqon trust\nlocal all all scram-sha-256\n"
        (server.data / "pg_hba.conf").write_text(rules)
        server.stop()
        server.start()
        database = Database(first)
        storage = Storage((tmp_path / "objects").as_uri())
        migrate.upgrade(database)
        installation.mark(database, storage)
        back_up(database, storage, tmp_path / "backup", with_objects=False)
        database.dispose()
        settings = Settings(_env_file=None, database_url=second, storage_url=storage.address)
        assert restore(settings, tmp_path / "backup").missing == []
    finally:
        server.stop()


def _with_password(server: PostgresServer, name: str) -> str:
    """Return the address of a new database for a user with a password."""
    url = make_url(server.create_database(name))
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'p@ss/w:rd%'".encode())
        connection.execute(f'ALTER DATABASE "{url.database}" OWNER TO {name}'.encode())
    own = url.set(username=name, password="p@ss/w:rd%")
    return own.render_as_string(hide_password=False)


def test_a_bucket_is_listed_and_compared(backend: Backend, admin: Admin, tmp_path: Path) -> None:
    """As with an object store, whose objects stay where they are."""
    backend.add_job()
    folder = tmp_path / "backup"
    assert admin("backup", str(folder), "--no-objects").exit_code == 0
    assert not (folder / OBJECTS).exists()
    keys = [line.split(",")[0] for line in (folder / INVENTORY).read_text().splitlines()]
    key = next(key for key in keys if key.startswith("projects/"))
    storage = {"STORAGE_URL": backend.settings.resolved_storage_url}
    empty = admin("restore", str(folder), into=tmp_path / "elsewhere")
    assert empty.exit_code == 1
    assert "put a copy of that one there first" in empty.output
    backend.storage.delete(key)
    lacking = admin("restore", str(folder), into=tmp_path / "new", **storage)
    assert (lacking.exit_code, f"missing: {key}" in lacking.output) == (1, True)


def test_a_restore_that_was_cut_short_is_begun_once_more(
    backend: Backend, admin: Admin, tmp_path: Path
) -> None:
    backend.add_job()
    folder, into = tmp_path / "backup", tmp_path / "new"
    assert admin("backup", str(folder)).exit_code == 0
    damaged = next(path for path in (folder / OBJECTS / "projects").rglob("*") if path.is_file())
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    (dump,) = folder.glob("database.*")
    dump.rename(folder / "away")
    refused = admin("restore", str(folder), into=into)
    assert refused.exit_code == 1
    assert refused.stderr.count("\n") == 1, "one sentence"
    assert dump.name in refused.stderr
    (folder / "away").rename(dump)
    restored = admin("restore", str(folder), into=into)
    assert restored.exit_code == 1
    assert f"missing: {damaged.relative_to(folder / OBJECTS)}\n1 objects" in restored.output
    records = records_of(into)
    with records.database.read() as session:
        assert session.query(Job).count() == 1
    records.database.dispose()


def test_a_restore_refuses_foreign_files_and_other_installations(
    backend: Backend, admin: Admin, tmp_path: Path
) -> None:
    folder = tmp_path / "backup"
    assert admin("backup", str(folder)).exit_code == 0
    again = admin("backup", str(folder))
    assert (again.exit_code, "is not empty" in again.output) == (1, True)
    other = Storage((tmp_path / "other" / "objects").as_uri())
    other.replace("installation", b"inst_of_another")
    refused = admin("restore", str(folder), into=tmp_path / "other")
    assert "belongs to another installation, inst_of_another" in refused.output
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"format": 2}))
    assert "this version" in admin("restore", str(folder), into=tmp_path / "a").output
    (folder / MANIFEST).unlink()
    assert "no whole backup" in admin("restore", str(folder), into=tmp_path / "a").output
    file = str(folder / INVENTORY)
    assert "no whole backup" in admin("restore", file, into=tmp_path / "a").output


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_backup_without_pg_dump_is_refused_in_a_sentence(
    backend: Backend, admin: Admin, tmp_path: Path
) -> None:
    refused = admin("backup", str(tmp_path / "backup"), PATH="")
    assert refused.exit_code == 1
    assert "pg_dump is not on PATH" in refused.output


def test_a_folder_that_cannot_be_written_is_said_in_a_sentence(
    admin: Admin, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    refused = admin("backup", str(tmp_path / "file" / "backup"))
    assert refused.exit_code == 1
    assert "file/backup cannot be written: " in refused.stderr


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_disk_that_fills_up_is_said_in_a_sentence(admin: Admin, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**13, limits[1]))
    try:
        refused = admin("backup", str(tmp_path / "backup"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert refused.exit_code == 1
    assert "cannot be copied to " in refused.stderr
