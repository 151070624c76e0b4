"""Identity of the installation: which database and which storage belong together. Every cleaner of
the storage must check it.

The database holds an id in its one row of `installation`, the storage in an object of that name. A
restored copy of the database has the right id and yet lacks the objects stored since. So both count
generations too: once a minute the row's is raised, and then written into the storage. A row that is
behind its storage belongs to a restored copy.
"""

import math
import threading
import time
from contextlib import suppress
from typing import NoReturn

import structlog
from obstore.exceptions import BaseError as StorageError
from sqlalchemy import func, select, update
from sqlalchemy.exc import SQLAlchemyError

from app.base.database import UNSYNCED, Database, insert_or, now
from app.base.ids import new_id
from app.base.storage import Storage, keys
from app.base.storage.reach import KeyTaken
from app.models import File, Installation, Job, Model, Project
from app.models.installation import ONLY_ID

START_SECONDS = 5.0  # a start waits no longer for an unresponsive storage
RETRY_SECONDS = 5.0
ADVANCE_SECONDS = 60.0
Id = str | None
UNKNOWN_PAIR = "unknown if storage and database belong together"
log = structlog.get_logger()


class CleaningRefused(Exception):
    """Cleaning is refused; the message says why nothing of the storage may be removed, and the
    remedy.
    """


class Mismatch(CleaningRefused):
    """Database and storage do not belong together."""


class Unmounted(Mismatch):
    """The storage has lost its id: most likely it is a folder that is not mounted."""


class NotMarked(CleaningRefused):
    """Neither has an id yet."""


class DatabaseRestored(CleaningRefused):
    """The database is an older copy of the one that filled the storage."""


def mark(database: Database, storage: Storage) -> None:
    """Give both a common id, once. Raises `Mismatch`."""
    row = _row(database)
    try:
        stored_id = _read_id(storage)
    except (StorageError, OSError) as error:
        if row is None or not row.stored:
            raise
        log.warning(UNKNOWN_PAIR, error=str(error))
        return
    if row is None:
        if stored_id is not None or (_is_empty(database) and _is_used(storage)):
            _mismatch(database, storage, None, stored_id)
        row = _add_row(database)
    elif row.stored and stored_id is None and _is_used(storage):
        _mismatch(database, storage, row.id, None)
    if stored_id is None:
        _store_id(database, storage, row.id)
    elif stored_id != row.id:
        _mismatch(database, storage, row.id, stored_id)
    elif not row.stored:
        _note_stored(database)
    storage.expect(row.id)


def check(database: Database, storage: Storage) -> Installation:
    """Check that the two belong together, and record the id in the storage's client. Raises
    `Mismatch` and `NotMarked`.
    """
    stored_id = _read_id(storage)
    row = _row(database)
    if stored_id is None and (row is None or not row.stored):
        raise NotMarked("Database and storage have no installation id yet: run `falqon migrate`.")
    if row is None or row.id != stored_id:
        _mismatch(database, storage, None if row is None else row.id, stored_id)
    storage.expect(row.id)
    return row


def advance(database: Database, storage: Storage) -> Installation:
    """Raise the generation of both. Raises `CleaningRefused`."""
    row, reason = _compare(database, storage)
    if reason is not None:
        raise DatabaseRestored(reason)
    try:
        _raise_generation(database, storage, 0)
    except (StorageError, OSError) as error:  # a full storage must still be cleaned
        log.warning("the storage did not take the generation", error=str(error))
    return row


def describe_restore(database: Database, storage: Storage) -> str | None:
    """Return the reason to take the database for an older copy, if it is one. Raises `Mismatch` and
    `NotMarked`.
    """
    return _compare(database, storage)[1]


def accept(database: Database, storage: Storage) -> None:
    """Accept a restored database as the newest."""
    _raise_generation(database, storage, _generation(storage))


def adopt(database: Database, storage: Storage) -> bool:
    """Give the storage this database's id; False if it has it. Cleaning it waits for `accept`."""
    row = _row(database) or _add_row(database)
    stored_id = _read_id(storage)
    if stored_id == row.id:
        _note_stored(database)
        return False
    if stored_id is None:
        _store_id(database, storage, row.id)
    else:
        with database.transaction() as session:
            session.execute(update(Installation).values(id=stored_id, stored=True))
    storage.replace(keys.generation(), b"%d" % (max(row.generation, _generation(storage)) + 1))
    return True


def refuse_mismatch(database: Database, storage: Storage) -> None:
    """Raise `Mismatch` if it is one. A check that takes more than some seconds passes."""
    mismatches: list[Mismatch] = []

    def try_check() -> None:
        try:
            with suppress(NotMarked):
                check(database, storage)
        except Mismatch as error:
            mismatches.append(error)
        except (SQLAlchemyError, StorageError, OSError) as error:
            log.warning(UNKNOWN_PAIR, error=str(error))

    thread = threading.Thread(target=try_check, name="installation", daemon=True)
    thread.start()
    thread.join(START_SECONDS)
    if mismatches:
        raise mismatches[0]


def wait_until_known(
    database: Database,
    storage: Storage,
    shutting_down: threading.Event,
    limit_seconds: float = math.inf,
) -> bool:
    """Return once it is known that the two belong together; False if the limit or the end of this
    process comes before. Raises `Mismatch`.
    """
    deadline = time.monotonic() + limit_seconds
    while not shutting_down.is_set():
        try:
            with suppress(NotMarked):
                check(database, storage)
            return True
        except (SQLAlchemyError, StorageError, OSError) as error:
            log.warning(UNKNOWN_PAIR, error=str(error))
        seconds_left = deadline - time.monotonic()
        if seconds_left <= 0:
            return False
        shutting_down.wait(min(seconds_left, RETRY_SECONDS))
    return False


class CleaningGuard:
    """Decides whether the storage may be cleaned. It reads both generations once a minute."""

    def __init__(self, database: Database, storage: Storage) -> None:
        self._database = database
        self._storage = storage
        self._compare_at = 0.0
        self._allowed = False

    def allows(self) -> bool:
        """Return True if cleaning is allowed. Raises the errors of database and storage."""
        if time.monotonic() >= self._compare_at:
            self._compare_at = time.monotonic() + ADVANCE_SECONDS
            self._allowed = False
            try:
                advance(self._database, self._storage)
                self._allowed = True
            except CleaningRefused as error:
                log.error("nothing is removed from the storage", reason=str(error))
        return self._allowed


def _compare(database: Database, storage: Storage) -> tuple[Installation, str | None]:
    """Return the row, and the reason to take the database for an older copy, if it is one."""
    generation_before = _generation(storage)  # read before the row, which is never behind it
    row = check(database, storage)
    if row.generation >= generation_before:
        return row, None
    return row, (
        f"The database {_name(database)} is an older copy: its generation is {row.generation}, "
        f"that of the storage {storage.address} is {generation_before}. Objects made since then "
        "have no row. None is removed before you have checked: `falqon admin garbage --dry-run`, "
        "then `falqon admin garbage --confirm`."
    )


def _row(database: Database) -> Installation | None:
    with database.read() as session:
        return session.get(Installation, ONLY_ID)


def _add_row(database: Database) -> Installation:
    with database.transaction() as session:
        created_at = session.scalar(select(func.min(Project.created_at))) or now(session)
        row = {"number": ONLY_ID, "id": new_id("inst_"), "created_at": created_at}
        row |= {"stored": False, "generation": 0}
        session.execute(insert_or(session, Installation).on_conflict_do_nothing(), row)
        return session.get_one(Installation, ONLY_ID)


def _read_id(storage: Storage) -> str | None:
    content = storage.read(keys.installation())
    if content is None:
        return None
    return content.decode(errors="replace").strip()


def _store_id(database: Database, storage: Storage, id_: str) -> None:
    try:
        storage.put(keys.installation(), [id_.encode()])
    except KeyTaken:  # another database was faster
        _mismatch(database, storage, id_, _read_id(storage))
    _note_stored(database)


def _note_stored(database: Database) -> None:
    with database.transaction() as session:
        session.execute(update(Installation).values(stored=True))


def _generation(storage: Storage) -> int:
    content = storage.read(keys.generation()) or b"0"
    return int(content) if content.isdigit() else 0


def _raise_generation(database: Database, storage: Storage, least: int) -> None:
    # The row is written first: after a crash in between, the storage is not ahead.
    with database.transaction() as session:
        generation = session.get_one(Installation, ONLY_ID, with_for_update=True).generation
        generation = max(generation, least) + 1
        raised = update(Installation).values(generation=generation)
        session.execute(raised, execution_options=UNSYNCED)
    storage.replace(keys.generation(), b"%d" % generation)


def _is_empty(database: Database) -> bool:
    with database.read() as session:
        ids = [session.scalar(select(table.id).limit(1)) for table in (File, Job, Model)]
    return not any(ids)


def _is_used(storage: Storage) -> bool:
    return any(storage.holds_any(root) for root in keys.ROOTS)


def _mismatch(database: Database, storage: Storage, row_id: Id, stored_id: Id) -> NoReturn:
    kind = Unmounted if row_id is not None and stored_id is None else Mismatch
    raise kind(
        f"The storage {storage.address} ({_identity(stored_id)}) and the database "
        f"{_name(database)} ({_identity(row_id)}) do not belong together. Set DATABASE_URL and "
        "STORAGE_URL (or FALQON_DATA_DIR) to two that do; if these are meant to from now on, "
        "after a restore or a copy, run `falqon admin adopt-storage`."
    )


def _identity(id_: str | None) -> str:
    if id_ is None:
        return "which has no installation id"
    return f"of installation {id_[:100]}"


def _name(database: Database) -> str:
    url = database.engine.url._replace(username=None, password=None)
    return url.set(query={}).render_as_string()
