"""A wrong or a restored database must not be taken for the one that the storage was filled by."""

import errno
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import httpx
import pytest
from sqlalchemy import update

from app.base import migrate
from app.base.database import Database
from app.base.settings import Settings
from app.base.storage import Storage, keys
from app.garbage import installation
from app.local.bootstrap import prepare
from app.main import create_app
from app.models import DEFAULT_PROJECT_ID, Installation, Project
from tests.support.api import Api
from tests.support.backend import FAKE_TRAINER
from tests.support.rows import checked_file
from tests.support.schema import migrate_database
from tests.support.waiting import wait_for

Make = Callable[[str], Database]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Databases with tables, by their names."""
    databases: list[Database] = []

    def make(name: str) -> Database:
        database = Database(f"sqlite:///{tmp_path / name}.db")
        migrate_database(database)
        databases.append(database)
        return database

    yield make
    for database in databases:
        database.dispose()


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage((tmp_path / "objects").as_uri())


@pytest.fixture
def other(tmp_path: Path) -> Storage:
    return Storage((tmp_path / "other").as_uri())


def use(*parts: Database | Storage) -> None:
    """As if files had been uploaded."""
    for part in parts:
        if isinstance(part, Storage):
            part.put("projects/p/files/a", [b"1"])
            continue
        with part.transaction() as session:
            session.add(Project(id=DEFAULT_PROJECT_ID, name="default"))
            session.flush()
            session.add(checked_file("file-a", DEFAULT_PROJECT_ID, "projects/p/files/a"))


def stored_id(storage: Storage) -> str:
    return (storage.read(keys.installation()) or b"").decode()


def row(database: Database) -> Installation:
    with database.read() as session:
        return session.query(Installation).one()


def test_database_and_storage_get_one_installation_id_once(
    database: Database, storage: Storage
) -> None:
    with pytest.raises(installation.NotMarked, match="falqon migrate"):
        installation.check(database, storage)
    installation.mark(database, storage)
    first = stored_id(storage)
    assert first.startswith("inst_")
    assert (row(database).id, row(database).stored) == (first, True)
    installation.mark(database, storage)
    assert installation.check(database, storage).id == stored_id(storage) == first


def test_an_installation_older_than_the_ids_is_marked(make: Make, storage: Storage) -> None:
    database = make("a")
    use(database, storage)
    installation.mark(database, storage)
    with database.read() as session:
        assert row(database).created_at == session.get_one(Project, DEFAULT_PROJECT_ID).created_at
    assert installation.check(database, storage).id == stored_id(storage)


def test_a_marking_that_was_cut_short_is_finished(make: Make, storage: Storage) -> None:
    database = make("a")
    use(database, storage)
    installation.mark(database, storage)
    first = stored_id(storage)
    with database.transaction() as session:
        session.execute(update(Installation).values(stored=False))
    installation.mark(database, storage)
    assert row(database).stored, "killed after the object"
    storage.delete(keys.installation())
    with database.transaction() as session:
        session.execute(update(Installation).values(stored=False))
    installation.mark(database, storage)
    assert stored_id(storage) == first, "killed before the object"


def test_an_empty_storage_is_given_the_id(make: Make, storage: Storage, other: Storage) -> None:
    database = make("a")
    installation.mark(database, storage)
    use(database)
    with pytest.raises(installation.Mismatch):
        installation.check(database, other)
    installation.mark(database, other)
    assert stored_id(other) == stored_id(storage)


def test_an_empty_database_is_refused_by_a_used_storage(
    make: Make, storage: Storage, other: Storage
) -> None:
    right = make("right")
    wrong = make("wrong")
    installation.mark(right, storage)
    for used in (storage, other):
        use(used)
        with pytest.raises(installation.Mismatch):
            installation.mark(wrong, used)
    with pytest.raises(installation.Mismatch):
        installation.check(wrong, storage)
    installation.check(right, storage)


def test_a_database_and_a_storage_of_two_installations_are_refused(
    make: Make, storage: Storage, other: Storage
) -> None:
    left = make("left")
    right = make("right")
    installation.mark(left, storage)
    installation.mark(right, other)
    use(left, right, storage, other)
    for act in (
        installation.mark,
        installation.check,
        installation.advance,
        installation.refuse_mismatch,
    ):
        with pytest.raises(installation.Mismatch) as refused:
            act(left, other)
        text = str(refused.value)
        words = (
            "left.db",
            other.address,
            row(left).id,
            row(right).id,
            "falqon admin adopt-storage",
        )
        assert all(word in text for word in words)


def test_a_used_storage_that_lost_its_id_is_refused(
    make: Make, storage: Storage, other: Storage
) -> None:
    database = make("a")
    installation.mark(database, storage)
    use(database, other)
    for act in (installation.mark, installation.check):
        with pytest.raises(installation.Mismatch, match="no installation id"):
            act(database, other)


def test_no_password_is_said() -> None:
    url = "s3://key:secret@bucket/folder?aws_secret_access_key=secret&region=here"
    assert Storage(url).address == "s3://bucket/folder"
    database = Database("postgresql://user:secret@somewhere:5432/falqon?sslpassword=secret")
    assert installation._name(database) == "postgresql+psycopg://somewhere:5432/falqon"
    database.dispose()


@pytest.mark.parametrize("marked", [True, False])
def test_an_adopted_storage_is_this_databases_own(
    make: Make, storage: Storage, other: Storage, marked: bool
) -> None:
    left = make("left")
    right = make("right")
    installation.mark(left, other)
    if marked:
        installation.mark(right, storage)
    use(left, storage)
    assert installation.adopt(left, storage)
    installation.mark(left, storage)
    assert installation.check(left, storage).id == stored_id(storage)
    with pytest.raises(installation.DatabaseRestored, match="garbage --confirm"):
        installation.advance(left, storage)
    installation.accept(left, storage)
    installation.advance(left, storage)
    assert not installation.adopt(left, storage)
    installation.advance(left, storage)


def test_a_database_that_is_behind_its_storage_was_restored(
    database: Database, storage: Storage
) -> None:
    installation.mark(database, storage)
    for _ in range(3):
        installation.advance(database, storage)
    with database.transaction() as session:
        session.execute(update(Installation).values(generation=2))
    for _ in range(2):
        with pytest.raises(
            installation.DatabaseRestored, match=r"generation is 2, that of the storage .* is 3"
        ):
            installation.advance(database, storage)
    installation.accept(database, storage)
    installation.advance(database, storage)
    assert (row(database).generation, storage.read(keys.generation())) == (5, b"5")


def test_a_process_that_ends_between_row_and_object_was_not_restored(
    database: Database, storage: Storage
) -> None:
    installation.mark(database, storage)
    installation.advance(database, storage)
    with database.transaction() as session:
        session.execute(update(Installation).values(generation=2))
    installation.advance(database, storage)
    assert storage.read(keys.generation()) == b"3"


def test_a_guard_checks_the_installation_again(
    make: Make, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = make("a")
    guard = installation.CleaningGuard(database, storage)
    assert not guard.allows(), "no id yet"
    installation.mark(database, storage)
    assert not guard.allows(), "not a minute later"
    monkeypatch.setattr(installation, "ADVANCE_SECONDS", 0.0)
    guard = installation.CleaningGuard(database, storage)
    assert guard.allows()
    storage.delete(keys.installation())
    assert not guard.allows()


class FullStorage(Storage):
    def replace(self, key: str, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", key)


def test_a_full_storage_may_still_be_cleaned(make: Make, storage: Storage) -> None:
    """As one that is full, and gets no space if nothing goes."""
    database = make("a")
    installation.mark(database, storage)
    assert installation.CleaningGuard(database, FullStorage(storage.address)).allows()
    assert row(database).generation == 1


def test_a_storage_that_is_away_is_no_mismatch(make: Make) -> None:
    database = make("a")
    away = Storage("http://127.0.0.1:1/")
    installation.refuse_mismatch(database, away)


def test_a_worker_waits_until_the_installation_is_known(
    tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "RETRY_SECONDS", 0.01)
    database = Database(f"sqlite:///{tmp_path / 'late.db'}")
    (tmp_path / "objects" / "installation" / "in_the_way").mkdir(parents=True)  # cannot be read
    arguments = [database, storage, threading.Event()]
    waiting = threading.Thread(target=installation.wait_until_known, args=arguments, daemon=True)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    migrate.upgrade(database)
    shutil.rmtree(tmp_path / "objects" / "installation")
    installation.mark(database, storage)
    waiting.join(30)
    assert not waiting.is_alive()
    database.dispose()


def test_waiting_for_the_installation_ends_at_its_limit_and_with_its_process(
    make: Make, storage: Storage
) -> None:
    installation.mark(make("a"), storage)
    away = Database("sqlite:////nowhere/falqon.db")
    running, ending = threading.Event(), threading.Event()
    ending.set()
    assert not installation.wait_until_known(away, storage, running, limit_seconds=0.1)
    assert not installation.wait_until_known(away, storage, ending)
    away.dispose()


def test_the_api_refuses_to_start_and_says_why(
    make: Make, tmp_path: Path, storage: Storage
) -> None:
    installation.mark(make("left"), storage)
    url = f"sqlite:///{tmp_path / 'right.db'}"
    settings = Settings(_env_file=None, database_url=url, storage_url=storage.address)
    make("right")

    async def start() -> None:
        app = create_app(settings)
        async with app.router.lifespan_context(app):
            pass

    with pytest.raises(installation.Mismatch, match="adopt-storage"):
        anyio.run(start)


def test_an_api_that_finds_out_later_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.http.probes.PROBE_SECONDS", 0.1)
    api = Api(f"sqlite:///{tmp_path / 'falqon.db'}", tmp_path / "data")
    try:
        assert httpx.get(f"{api.url}/readyz").json()["checks"]["storage"] == "ok"
        api.storage.replace(keys.installation(), b"inst_of_another")
        refused = "belongs to another database"
        wait_for(
            lambda: httpx.get(f"{api.url}/readyz").json()["checks"]["storage"] == refused,
            what="the mismatch is seen",
        )
        assert httpx.get(f"{api.url}/readyz").status_code == 503
    finally:
        api.stop()


def test_a_new_database_beside_a_used_storage_is_not_prepared(tmp_path: Path) -> None:
    options = {"data_dir": tmp_path, "trainer_command": FAKE_TRAINER}
    settings = Settings(_env_file=None, **options)
    prepare(settings)
    prepare(settings)
    new = f"sqlite:///{tmp_path / 'new.db'}"
    with pytest.raises(installation.Mismatch):
        prepare(Settings(_env_file=None, database_url=new, **options))
