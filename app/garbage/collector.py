"""Bytes that no row names and that nobody announced: of a worker that was killed while it uploaded, or of a row that went long ago.

Looking through the whole storage finds them, and makes orphans of them, which are looked at once more before they go. Young ones are
left alone: somebody may be writing them, and their row comes last. What looks less like garbage
than like a database that lost its rows is held until an admin confirms.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from sqlalchemy import ColumnElement, delete, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from app import installation
from app.database import Database, now_plus
from app.garbage import orphans
from app.ids import new_id
from app.installation import Refused
from app.models import DeliveryStatus, Installation, Orphan, WebhookDelivery
from app.storage import Listed, Storage, keys

AGE = timedelta(hours=22)  # with the hour until the next look, and the one that an orphan waits, a day
DELIVERIES_KEPT = timedelta(days=30)
DELETED_AT_ONCE = 1000
# More without a row than a fleet of killed workers leaves in an hour: then it is rather the rows that are missing.
NAMELESS, NAMELESS_SHARE = 1000, 0.01
LOOK = "None is removed until you have looked: `falqon admin garbage --dry-run`, then `falqon admin garbage --confirm`."
ANNOUNCED_AT_ONCE = 100_000  # the memory of a collector
ADDED_AT_ONCE = 1000
SHOWN = 10
TURN_SECONDS = 600.0  # longer than a storage takes for one batch
_UNSYNCED = {"synchronize_session": False}
log = structlog.get_logger()


class Held(Refused):
    """What was found looks less like garbage than like the wrong database."""


@dataclass
class Survey:
    """What looking through the storage found."""

    listed: int = 0
    listed_bytes: int = 0
    nameless: int = 0  # old enough, and neither named by a row nor announced
    nameless_bytes: int = 0
    young: int = 0  # nameless too, but not old enough
    before_database: int = 0  # of the nameless, those that are older than the database
    some: list[str] = field(default_factory=list)

    @property
    def limit(self) -> int:
        return max(NAMELESS, int(self.listed * NAMELESS_SHARE))

    def held(self) -> str | None:
        """Why these must not go by themselves."""
        if self.nameless > self.limit:
            counts = f"{self.nameless:,} of {self.listed:,} objects have no row"
            return f"{counts}, which is more than {self.limit:,}. {LOOK}"
        if self.before_database:
            older = f"{self.before_database:,} objects without a row"
            return f"{older} are older than the database. {LOOK}"
        return None


def collect(database: Database, storage: Storage) -> int:
    """Make orphans of what has no row; how many. None while another process does. Raises `Refused`."""
    installation.check(database, storage)
    with _turn(database) as renew:
        if renew is None:
            return 0
        created_at = installation.advance(database, storage).created_at
        storage.remove_unfinished(AGE)
        found = _look(database, storage, created_at, renew)
        if reason := found.held():
            raise Held(reason)
        _announce(database, found.some)
        return len(found.some)


def survey(database: Database, storage: Storage) -> Survey:
    """Count what `confirm` would announce. Raises `Mismatch`."""
    return _look(database, storage, installation.check(database, storage).created_at, lambda: None)


def describe(database: Database, storage: Storage) -> str:
    """Say what is without a row, and what holds it back. Raises `Mismatch`."""
    found = survey(database, storage)
    hours = f"{AGE.total_seconds() / 3600:.0f} hours"
    lines = [
        f"Objects: {found.listed:,} ({found.listed_bytes:,} bytes)",
        f"Without a row for {hours}: {found.nameless:,} ({found.nameless_bytes:,} bytes)",
        f"Without a row, and younger: {found.young:,}",
        *(f"  {key}" for key in found.some[:SHOWN]),
    ]
    reason = installation.restored(database, storage) or found.held()
    return "\n".join([*lines, reason or "Nothing is held back: they go by themselves."])


def confirm(database: Database, storage: Storage) -> int:
    """Collect what is held, too, and trust the database from now on. Raises `Refused`."""
    created_at, count = installation.check(database, storage).created_at, 0
    with _turn(database) as renew:
        if renew is None:
            raise Held("Another process is collecting; try again in some minutes.")
        while some := _look(database, storage, created_at, renew).some:
            _announce(database, some)
            count += len(some)
        installation.accept(database, storage)
        return count


def _look(database: Database, storage: Storage, created_at: datetime, renew: Callable[[], None]) -> Survey:
    found, latest = Survey(), storage.now() - AGE
    for batch in (batch for root in keys.ROOTS for batch in storage.objects(root)):
        renew()
        found.listed += len(batch)
        found.listed_bytes += sum(one.bytes for one in batch)
        for one in _nameless(database, batch):
            if one.modified >= latest:
                found.young += 1
                continue
            found.nameless += 1
            found.nameless_bytes += one.bytes
            found.before_database += one.modified < created_at
            if len(found.some) < ANNOUNCED_AT_ONCE:
                found.some.append(one.key)
    return found


def _nameless(database: Database, batch: list[Listed]) -> list[Listed]:
    listed = [one.key for one in batch]
    with database.read() as session:
        announced = session.scalars(select(Orphan.storage_key).where(Orphan.storage_key.in_(listed)))
        known = orphans.named(session, listed) | set(announced)
    return [one for one in batch if one.key not in known]


def _announce(database: Database, nameless: list[str]) -> None:
    for start in range(0, len(nameless), ADDED_AT_ONCE):
        with database.transaction() as session:
            orphans.abandon(session, nameless[start : start + ADDED_AT_ONCE])
    if nameless:
        log.info("objects without a row", count=len(nameless), first=nameless[0])


@contextmanager
def _turn(database: Database) -> Iterator[Callable[[], None] | None]:
    """One collects at a time: gives what keeps the turn, or None where another has it."""
    me, taken_at = new_id(""), time.monotonic()

    def take(condition: ColumnElement[bool], seconds: float) -> bool:
        values = {"collector": me, "collecting_until": now_plus(seconds)}
        statement = update(Installation).where(condition).values(values).returning(Installation.id)
        with database.transaction() as session:
            return session.scalar(statement, execution_options=_UNSYNCED) is not None

    def renew() -> None:
        nonlocal taken_at
        if time.monotonic() < taken_at + TURN_SECONDS / 10:
            return
        if not take(Installation.collector == me, TURN_SECONDS):
            raise Held("This collector was too slow, and another has begun.")
        taken_at = time.monotonic()

    until = Installation.collecting_until
    if not take(or_(until.is_(None), until < now_plus()), TURN_SECONDS):
        yield None
        return
    try:
        yield renew
    finally:
        with suppress(SQLAlchemyError):  # it ends by itself
            take(Installation.collector == me, 0.0)


def forget_deliveries(database: Database) -> int:
    """Webhook deliveries that ended long ago, a few at a time; how many."""
    ended = (WebhookDelivery.status != DeliveryStatus.PENDING, WebhookDelivery.created_at < now_plus(-DELIVERIES_KEPT.total_seconds()))
    count = 0
    while True:
        with database.transaction() as session:
            old = session.scalars(select(WebhookDelivery.id).where(*ended).limit(DELETED_AT_ONCE)).all()
            session.execute(delete(WebhookDelivery).where(WebhookDelivery.id.in_(old)), execution_options={"synchronize_session": False})
        count += len(old)
        if len(old) < DELETED_AT_ONCE:
            return count
