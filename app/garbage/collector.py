"""Unreferenced bytes in the storage: of a worker that was killed during an upload, or of a row that
was deleted long ago.

Every hour one API process searches below the attempts that ended a day ago, and once a week through
the whole storage. It marks what it finds as orphaned; an orphan is checked once more before its
removal. Young objects are left alone: an upload may be in progress, whose row is written last. If
the amount suggests a database that lost its rows rather than garbage, it is held until an admin
confirms.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from sqlalchemy import ColumnElement, delete, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from app.base.database import UNSYNCED, Database, now, now_plus
from app.base.ids import new_id
from app.base.storage import ListedObject, Storage, keys
from app.garbage import installation, orphans
from app.garbage.installation import CleaningRefused
from app.models import Attempt, DeliveryStatus, Installation, Job, Orphan, WebhookDelivery

# With the hour until the next round, and the hour that an orphan waits, this makes a day.
MIN_AGE = timedelta(hours=22)
ROUND_INTERVAL = timedelta(hours=1)
FULL_SCAN_INTERVAL = timedelta(days=7)
MAX_OBJECTS_PER_SECOND = 2000  # rate limit, so that other users of the storage are not slowed down
DELIVERY_RETENTION = timedelta(days=30)
DELETE_BATCH = 1000
# More than the number of objects that killed workers leave: then it is rather the rows that are
# missing.
MAX_UNREFERENCED, MAX_UNREFERENCED_SHARE = 1000, 0.01
REVIEW_ADVICE = (
    "None is removed before you have checked: `falqon admin garbage --dry-run`, then `falqon admin "
    "garbage --confirm`."
)
MAX_ANNOUNCED = 100_000  # the memory of a collector
INSERT_BATCH = 1000
MAX_LISTED = 10
TURN_SECONDS = 600.0  # longer than a storage takes for one batch
log = structlog.get_logger()


class HeldBack(CleaningRefused):
    """The amount of garbage suggests the wrong database."""


@dataclass
class Survey:
    """Result of a search through the storage."""

    listed_keys: int = 0
    listed_bytes: int = 0
    unreferenced: int = 0  # old enough, and neither named by a row nor announced
    unreferenced_bytes: int = 0
    young: int = 0  # unreferenced, but below the minimum age
    before_database: int = 0  # unreferenced and older than the database
    some: list[str] = field(default_factory=list)

    @property
    def limit(self) -> int:
        return max(MAX_UNREFERENCED, int(self.listed_keys * MAX_UNREFERENCED_SHARE))

    def hold_reason(self) -> str | None:
        """Return the reason to hold these for an admin; None if there is none."""
        if self.unreferenced > self.limit:
            counts = f"{self.unreferenced:,} of {self.listed_keys:,} objects have no row"
            return f"{counts}, which is more than {self.limit:,}. {REVIEW_ADVICE}"
        if self.before_database:
            older = f"{self.before_database:,} objects without a row"
            return f"{older} are older than the database. {REVIEW_ADVICE}"
        return None


def collect_due(database: Database, storage: Storage, wait: Callable[[float], object]) -> int:
    """Mark unreferenced objects as orphaned, as far as a round is due; return how many, 0 while
    another process does it. `wait` is called so that it reads at a bounded rate.

    Raises `CleaningRefused`.
    """
    installation.check(database, storage)
    with _turn(database) as renew:
        if renew is None:
            return 0
        row = installation.advance(database, storage)
        with database.read() as session:
            moment = now(session)
        if row.collected_at and row.surveyed_at and row.surveyed_at > moment - FULL_SCAN_INTERVAL:
            if row.collected_at > moment - ROUND_INTERVAL:
                return 0
            prefixes: Sequence[str] = _find_ended_attempts(database, row.collected_at, moment)
            times = {"collected_at": moment}
        else:
            storage.remove_unfinished(MIN_AGE)
            prefixes = keys.ROOTS
            times = {"collected_at": moment, "surveyed_at": moment}
        objects = _scan(database, storage, row.created_at, renew, prefixes, wait)
        reason = objects.hold_reason()
        if reason is None:
            _announce(database, objects.some)
        # Objects that a round between the weekly ones holds back are found again by the next one.
        if reason is None or "surveyed_at" in times:
            with database.transaction() as session:
                session.execute(update(Installation).values(times))
        if reason is not None:
            raise HeldBack(reason)
        return len(objects.some)


def survey(database: Database, storage: Storage) -> Survey:
    """Count what `confirm` would announce. Raises `Mismatch`."""
    return _scan(database, storage, installation.check(database, storage).created_at, lambda: None)


def describe(database: Database, storage: Storage) -> str:
    """Return a description of the unreferenced objects and of the reason to hold them. Raises
    `Mismatch`.
    """
    objects = survey(database, storage)
    hours = f"{MIN_AGE.total_seconds() / 3600:.0f} hours"
    lines = [
        f"Objects: {objects.listed_keys:,} ({objects.listed_bytes:,} bytes)",
        f"Without a row for {hours}: {objects.unreferenced:,} "
        f"({objects.unreferenced_bytes:,} bytes)",
        f"Without a row, and younger: {objects.young:,}",
        *(f"  {key}" for key in objects.some[:MAX_LISTED]),
    ]
    reason = installation.describe_restore(database, storage) or objects.hold_reason()
    return "\n".join([*lines, reason or "Nothing is held back: they are removed automatically."])


def confirm(database: Database, storage: Storage) -> int:
    """Collect held objects too, and trust the database from now on. Raises `CleaningRefused`."""
    created_at = installation.check(database, storage).created_at
    count = 0
    with _turn(database) as renew:
        if renew is None:
            raise HeldBack("Another process is collecting; try again in some minutes.")
        while some := _scan(database, storage, created_at, renew).some:
            _announce(database, some)
            count += len(some)
        installation.accept(database, storage)
        return count


def _find_ended_attempts(database: Database, since: datetime, moment: datetime) -> list[str]:
    """Return the prefixes of the attempts that have become old enough since that round."""
    delay = MIN_AGE + orphans.GRACE_PERIOD
    statement = (
        select(Job.project_id, Attempt.job_id, Attempt.number)
        .join(Job, Job.id == Attempt.job_id)
        .where(Attempt.ended_at > since - delay, Attempt.ended_at <= moment - delay)
    )
    with database.read() as session:
        return [f"{keys.attempt_prefix(*row)}/" for row in session.execute(statement)]


def _scan(
    database: Database,
    storage: Storage,
    created_at: datetime,
    renew: Callable[[], None],
    prefixes: Sequence[str] = keys.ROOTS,
    wait: Callable[[float], object] = lambda _: None,
) -> Survey:
    objects = Survey()
    latest = storage.now() - MIN_AGE
    for batch in (batch for prefix in prefixes for batch in storage.objects(prefix)):
        renew()
        wait(len(batch) / MAX_OBJECTS_PER_SECOND)
        objects.listed_keys += len(batch)
        objects.listed_bytes += sum(item.bytes for item in batch)
        for item in _find_unreferenced(database, batch):
            if item.modified >= latest:
                objects.young += 1
                continue
            objects.unreferenced += 1
            objects.unreferenced_bytes += item.bytes
            objects.before_database += item.modified < created_at
            if len(objects.some) < MAX_ANNOUNCED:
                objects.some.append(item.key)
    return objects


def _find_unreferenced(database: Database, batch: list[ListedObject]) -> list[ListedObject]:
    listed_keys = [item.key for item in batch]
    with database.read() as session:
        announced = session.scalars(
            select(Orphan.storage_key).where(Orphan.storage_key.in_(listed_keys))
        )
        owned = orphans.find_referenced(session, listed_keys) | set(announced)
    return [item for item in batch if item.key not in owned]


def _announce(database: Database, unreferenced: list[str]) -> None:
    for start in range(0, len(unreferenced), INSERT_BATCH):
        with database.transaction() as session:
            orphans.mark_orphaned(session, unreferenced[start : start + INSERT_BATCH])
    if unreferenced:
        log.info("objects without a row", count=len(unreferenced), first=unreferenced[0])


@contextmanager
def _turn(database: Database) -> Iterator[Callable[[], None] | None]:
    """Take the turn to collect, which one process has at a time: yields a function that renews it,
    or None if another process has it.
    """
    me = new_id("")
    taken_at = time.monotonic()

    def take(condition: ColumnElement[bool], seconds: float | None) -> bool:
        until = None if seconds is None else now_plus(seconds)
        values = {"collector": me, "collecting_until": until}
        statement = update(Installation).where(condition).values(values).returning(Installation.id)
        with database.transaction() as session:
            return session.scalar(statement, execution_options=UNSYNCED) is not None

    def renew() -> None:
        nonlocal taken_at
        if time.monotonic() < taken_at + TURN_SECONDS / 10:
            return
        if not take(Installation.collector == me, TURN_SECONDS):
            raise HeldBack("This collector was too slow, and another has begun.")
        taken_at = time.monotonic()

    until = Installation.collecting_until
    if not take(or_(until.is_(None), until < now_plus()), TURN_SECONDS):
        yield None
        return
    try:
        yield renew
    finally:
        with suppress(SQLAlchemyError):  # it ends by itself
            take(Installation.collector == me, None)


def forget_deliveries(database: Database) -> int:
    """Delete webhook deliveries that ended long ago, a few at a time; return how many."""
    ended = (
        WebhookDelivery.status != DeliveryStatus.PENDING,
        WebhookDelivery.created_at < now_plus(-DELIVERY_RETENTION.total_seconds()),
    )
    count = 0
    while True:
        with database.transaction() as session:
            old = session.scalars(
                select(WebhookDelivery.id).where(*ended).limit(DELETE_BATCH)
            ).all()
            session.execute(
                delete(WebhookDelivery).where(WebhookDelivery.id.in_(old)),
                execution_options=UNSYNCED,
            )
        count += len(old)
        if len(old) < DELETE_BATCH:
            return count
