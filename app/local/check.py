"""`falqon check`: proves that what the service needs is there and does what it must."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from obstore.exceptions import BaseError as StorageError
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from app.base import migrate
from app.base.database import Database, now
from app.base.ids import new_id
from app.base.settings import Settings
from app.base.storage import Storage
from app.base.storage.reach import FOR_PROBES, KeyTaken
from app.prices.service import file_prices

REDIS_TIMEOUT_SECONDS = 2
# Signed addresses and certificates of TLS stand no more than minutes.
MAX_SKEW = timedelta(seconds=30)
CONTENT = b"falqon check"
OTHER = b"falqon check, other bytes"


Step = Callable[[Storage, str], str]  # Returns the fault, or an empty text.


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one check; `advice` only where it failed."""

    part: str
    is_ok: bool
    finding: str
    advice: str = ""


def check(settings: Settings) -> Iterator[Result]:
    """Try everything that the service needs, in the order in which it needs it."""
    yield _check_settings(settings)
    yield from _check_database(settings)
    yield _check_redis(settings)
    yield from _check_storage(settings)


def _check_settings(settings: Settings) -> Result:
    """Read the files that settings name; names and values were checked when they were read."""
    try:
        file_prices(settings.prices)
    except (ValueError, OSError) as error:
        return Result("settings", False, _first_line(error), "Correct this one.")
    return Result("settings", True, "every one can be read, none is unknown")


def _check_database(settings: Settings) -> Iterator[Result]:
    try:
        database = Database(settings.resolved_database_url)
    except (ArgumentError, OSError) as error:
        yield Result("database", False, _first_line(error), "Correct DATABASE_URL.")
        return
    try:
        where = database.engine.url.render_as_string()
        with database.read() as session:
            clock = now(session)
        yield Result("database", True, where)
        yield _compare_clocks(clock)
        yield _check_schema(database)
    except SQLAlchemyError as error:
        advice = (
            "See that it runs, and that address, name, user and password in DATABASE_URL are right."
        )
        yield Result("database", False, f"{where}: {_first_line(error)}", advice)
    finally:
        database.dispose()


def _compare_clocks(clock: datetime) -> Result:
    skew = abs(datetime.now(UTC) - clock)
    finding = f"the database's differs from this machine's by {skew.total_seconds():.1f} s"
    return Result("clocks", skew <= MAX_SKEW, finding, "Run NTP on both machines.")


def _check_schema(database: Database) -> Result:
    schema = migrate.compare_schema(database)
    advice = "Run `falqon migrate`, which says how where that needs more."
    finding = {
        "current": "as this version made it",
        "newer": "made by a newer version, which this one can work with",
        "older": "of an older version, or empty",
        "too old": "from before version 0.2.0",
    }
    return Result("schema", schema in ("current", "newer"), finding[schema], advice)


def _check_redis(settings: Settings) -> Result:
    url = settings.resolved_redis_url
    if not settings.redis_url and not settings.valkey_socket.exists():
        return Result("redis", True, "the embedded one, which `falqon up` starts")
    timeouts = {
        "socket_timeout": REDIS_TIMEOUT_SECONDS,
        "socket_connect_timeout": REDIS_TIMEOUT_SECONDS,
    }
    try:
        with Redis.from_url(url, retry=None, **timeouts) as redis:
            redis.ping()
    except (RedisError, OSError, ValueError) as error:
        advice = "See that it runs and that REDIS_URL is right."
        return Result("redis", False, _first_line(error), advice)
    return Result("redis", True, "answers")


def _check_storage(settings: Settings) -> Iterator[Result]:
    """Stop at the first step that fails: those after it would only fail as well."""
    url = settings.resolved_storage_url
    key = f"check/{new_id('')}"
    try:
        storage = Storage(url, FOR_PROBES)
    except (StorageError, OSError, ValueError) as error:
        yield Result("storage", False, f"{url}: {_first_line(error)}", "Correct STORAGE_URL.")
        return
    try:
        for name, step, advice in STEPS:
            wrong = _take(step, storage, key)
            yield Result(f"storage: {name}", not wrong, wrong or url, advice)
            if wrong:
                return
    finally:
        with suppress(StorageError, OSError):
            storage.delete(key)


def _take(step: Step, storage: Storage, key: str) -> str:
    try:
        return step(storage, key)
    except (StorageError, OSError) as error:
        return _first_line(error)


def _write(storage: Storage, key: str) -> str:
    storage.put(key, [CONTENT])
    return ""


def _read_back(storage: Storage, key: str) -> str:
    if b"".join(storage.chunks(key)) == CONTENT:
        return ""
    return "other bytes came back"


def _create_again(storage: Storage, key: str) -> str:
    try:
        storage.put(key, [OTHER])
    except KeyTaken:
        return ""
    return "it wrote a key for the second time that must be written once"


def _list(storage: Storage, key: str) -> str:
    if key in storage.keys("check"):
        return ""
    return "the list lacks what was written a moment ago"


def _delete(storage: Storage, key: str) -> str:
    storage.delete(key)
    if key not in storage.keys("check"):
        return ""
    return "it is still there"


STEPS: tuple[tuple[str, Step, str], ...] = (
    (
        "write",
        _write,
        "See that the bucket exists, that the keys in AWS_… may write to it, and that "
        "AWS_ENDPOINT_URL, AWS_REGION and, without TLS, AWS_ALLOW_HTTP=true are set.",
    ),
    ("read", _read_back, "Permit GetObject and HeadObject."),
    (
        "create once",
        _create_again,
        "The store ignores `If-None-Match: *`, so a late writer could replace another's bytes. "
        "Use a "
        "store, or a version of it, that honours it: docs/settings.md.",
    ),
    ("list", _list, "Permit ListBucket; the list must show at once what was written."),
    ("delete", _delete, "Permit DeleteObject."),
)


def _first_line(error: Exception) -> str:
    text = str(error.__cause__ or error).strip() or type(error).__name__
    return text.splitlines()[0]
