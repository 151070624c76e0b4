"""Engine, sessions, and the database's own clock, for SQLite and Postgres alike."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    DateTime,
    Dialect,
    Engine,
    Float,
    ScalarSelect,
    create_engine,
    event,
    literal,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    DisconnectionError,
    InterfaceError,
    InternalError,
    OperationalError,
    TimeoutError,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import TypeDecorator

from app.base.private_dir import private_folder

# Errors that a retry may resolve: the database is unavailable, closed the connection, is read-only
# or full, or a lock was held for too long. Any other error of the database is a defect of ours.
DATABASE_UNAVAILABLE_ERRORS = (OperationalError, InterfaceError, InternalError, TimeoutError)
# Execution option of a statement: objects that the session has read stay as they are.
UNSYNCED = {"synchronize_session": False}
BUSY_TIMEOUT_MS = 5_000
AFTER_COMMIT = "after_commit"  # key in a session's `info`
# Largest count of the rows of a list: users do not page further, and counting all took most of a
# page's time.
MAX_COUNTED = 5_000
# Number of the newest rows that are searched for a part of a name, which no index finds.
NUM_SEARCHED = 1_000
POOL_TIMEOUT_SECONDS = 10.0
# Age at which an idle connection is checked before use; otherwise a restart of Postgres would cost
# each pooled connection a request.
MAX_IDLE_SECONDS = 1.0
# A lost server is noticed within 25 seconds. A process that was stopped inside a transaction holds
# its locks no longer than that either: shorter than a lease, otherwise its job could not be
# claimed.
CONNECTION_TIMEOUTS: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "options": "-c idle_in_transaction_session_timeout=25s -c lock_timeout=10s",
}
# With `pgbouncer=true` in the URL. Each transaction may have another connection: statements
# prepared on one are unknown to the next, and the `options` have to be set in the database
# (docs/network.md).
BEHIND_PGBOUNCER: dict[str, Any] = {
    name: value for name, value in CONNECTION_TIMEOUTS.items() if name != "options"
} | {"prepare_threshold": None}


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC datetimes in Python, independently of the database's storage."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        assert value.tzinfo is not None, "naive datetime"
        value = value.astimezone(UTC)
        if dialect.name == "sqlite":
            return value.replace(tzinfo=None)
        return value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            return value.replace(tzinfo=UTC)
        return value.astimezone(UTC)


class now_plus(FunctionElement[datetime]):
    """The database's clock plus some seconds; leases are measured with no other wall clock."""

    type = UtcDateTime()
    inherit_cache = True

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(literal(float(seconds), Float))


@compiles(now_plus, "sqlite")
def _sqlite_now(element: now_plus, compiler: SQLCompiler, **kw: Any) -> str:
    seconds = compiler.process(next(iter(element.clauses)), **kw)
    # Six digits, as SQLAlchemy stores datetimes, so that text comparison orders them.
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', {seconds} || ' seconds') || '000')"


@compiles(now_plus, "postgresql")
def _postgres_now(element: now_plus, compiler: SQLCompiler, **kw: Any) -> str:
    seconds = compiler.process(next(iter(element.clauses)), **kw)
    return f"(clock_timestamp() + make_interval(secs => {seconds}))"


def now_plus_once(seconds: float = 0.0) -> ScalarSelect[datetime]:
    """Return the same time, read once for a statement: to use an index for a time, Postgres needs a
    stable expression.
    """
    return select(now_plus(seconds)).scalar_subquery()


def insert_or(session: Session, table: type[Any]) -> Any:
    """Return an INSERT with ON CONFLICT; both databases spell it the same, SQLAlchemy has one class
    for each.
    """
    return (sqlite if session.get_bind().dialect.name == "sqlite" else postgresql).insert(table)


def now(session: Session) -> datetime:
    """Return the database's time, for times that must agree to the microsecond."""
    moment = session.scalar(select(now_plus()))
    assert isinstance(moment, datetime)
    return moment


def after_commit(session: Session, action: Callable[[], object]) -> None:
    """Have `Database.transaction` do this once it has committed, and not if it does not."""
    session.info.setdefault(AFTER_COMMIT, []).append(action)


class Database:
    """Sessions on the database. `transaction()` commits on success and rolls back on failure;
    `read()` never writes. Neither may span slow work. `look_up()` is for queries that nearly every
    request makes: without BEGIN and ROLLBACK around a SELECT, there is one round trip to Postgres
    instead of three.
    """

    def __init__(self, url: str) -> None:
        self.is_pooled = make_url(url).query.get("pgbouncer") == "true"
        self.engine = _create_engine(url)
        self._read_engine = self.engine.execution_options(
            postgresql_readonly=True, sqlite_deferred=True
        )
        self._look_up_engine = self._read_engine
        if self.engine.dialect.name == "postgresql":
            self._look_up_engine = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @property
    def folder(self) -> Path | None:
        """Return the folder of the database, if it is a file."""
        if self.engine.dialect.name == "sqlite" and self.engine.url.database:
            return Path(self.engine.url.database).parent
        return None

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session
        for action in session.info.get(AFTER_COMMIT, ()):
            action()

    @contextmanager
    def read(self) -> Iterator[Session]:
        with Session(self._read_engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def look_up(self) -> Iterator[Session]:
        with Session(self._look_up_engine, expire_on_commit=False) as session:
            yield session

    def dispose(self) -> None:
        """Close the connections: those in use by a thread, once it is done with them."""
        event.listen(self.engine, "checkin", _close_connection)
        self.engine.dispose()


def _close_connection(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.invalidate()


def _replace_lost_connections(engine: Engine) -> None:
    """Ping a connection before it is used again, as `pool_pre_ping` does, only if it was idle: a
    ping before each use was an eighth of a short request's time.
    """

    @event.listens_for(engine, "checkin")
    def _on_checkin(_connection: Any, record: ConnectionPoolEntry) -> None:
        record.info["rests_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _on_checkout(connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
        now = time.monotonic()
        if now - record.info.get("rests_since", now) < MAX_IDLE_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError from error  # the pool opens a new connection


def _read_json(text: str) -> Any:
    """Read stored JSON; Infinity and NaN, which no response may hold, are null."""
    return json.loads(text, parse_constant=lambda _: None)


def _create_engine(url: str) -> Engine:
    if url.startswith(("postgresql://", "postgres://")):
        url = "postgresql+psycopg://" + url.split("://", 1)[1]
    if not url.startswith("sqlite"):
        parsed = make_url(url)
        patience = (
            BEHIND_PGBOUNCER if parsed.query.get("pgbouncer") == "true" else CONNECTION_TIMEOUTS
        )
        parsed = parsed.difference_update_query(["pgbouncer"])
        engine = create_engine(
            parsed,
            pool_size=10,
            max_overflow=20,
            pool_timeout=POOL_TIMEOUT_SECONDS,
            json_deserializer=_read_json,
            connect_args={k: value for k, value in patience.items() if k not in parsed.query},
        )
        _replace_lost_connections(engine)
        return engine
    path = url.removeprefix("sqlite:///")
    private_folder(Path(path).parent)
    if not os.path.exists(path):
        os.close(os.open(path, os.O_CREAT, 0o600))
    engine = create_engine(
        url, json_deserializer=_read_json, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000}
    )

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            f"busy_timeout={BUSY_TIMEOUT_MS}",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        # Writers take the lock at once: a deferred transaction that turns into a writer fails
        # instead of waiting.
        deferred = connection.get_execution_options().get("sqlite_deferred", False)
        connection.exec_driver_sql("BEGIN" if deferred else "BEGIN IMMEDIATE")

    return engine
