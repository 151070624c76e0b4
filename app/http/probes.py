"""Background health checks of the dependencies of an API process; readers get the cached result."""

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import structlog
from obstore.exceptions import BaseError as StorageError
from pydantic import BaseModel
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from app.base.database import Database
from app.base.storage import Storage
from app.garbage import installation
from falqon_core.contract.errors import is_disk_full

PROBE_SECONDS = 5.0  # between two checks of a dependency
MAX_AGE_SECONDS = 15.0  # an older verdict is stale
FIRST_SECONDS = 3.0  # the longest wait of a start for first verdicts
LAST_SECONDS = 1.0  # the longest wait of a stop for checks in progress
OK, UNKNOWN = "ok", "unknown"
MISMATCH = "belongs to another database"
UNMOUNTED = "empty, or not mounted"
FULL = "no space left"
NOT_WRITABLE = "not writable"
MIN_FREE_BYTES = 16 * 2**20
# Without Redis everything works, only later; without one of these no new request is served.
NEEDED = {"database", "storage"}

Probe = Callable[[], str]

log = structlog.get_logger()


class Readiness(BaseModel):
    """Readiness of this process to serve requests; `checks` names the failing ones."""

    status: Literal["ok", "degraded", "unavailable"]
    checks: dict[str, str]


class BackgroundCheck:
    """Last verdict on a dependency, from a thread of its own: a silent one delays no other."""

    def __init__(self, name: str, probe: Probe) -> None:
        self._name = name
        self._probe = probe
        self._last = (UNKNOWN, time.monotonic())  # replaced as a whole, so it needs no lock
        self._probed = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"probe-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait_for_first(self, seconds: float) -> None:
        """Return with the first verdict, or after so long without one."""
        self._probed.wait(seconds)

    def stop(self) -> None:
        """Make no more probes."""
        self._ended.set()

    def join(self, seconds: float) -> None:
        """Wait so long at most for the check in progress: a longer one dies with the process."""
        self._thread.join(seconds)

    @property
    def verdict(self) -> str:
        """Return the last verdict, `unknown` when it is stale."""
        verdict, probed_at = self._last
        if time.monotonic() - probed_at <= MAX_AGE_SECONDS:
            return verdict
        return UNKNOWN

    def _work(self) -> None:
        while not self._ended.is_set():
            verdict = self._run_probe()
            (before, _) = self._last
            self._last = (verdict, time.monotonic())
            self._probed.set()
            if verdict != before and {verdict, before} != {OK, UNKNOWN}:
                log.warning("readiness changed", part=self._name, before=before, now=verdict)
            self._ended.wait(PROBE_SECONDS)

    def _run_probe(self) -> str:
        try:
            return self._probe()
        except Exception:  # top-level handler of a thread: the next check has to come
            log.exception("a probe failed", part=self._name)
            return UNKNOWN


class HealthMonitor:
    """Watches of everything that this process needs."""

    def __init__(
        self, database: Database, storage: Storage, used_storage: Storage, redis: Redis
    ) -> None:
        """Create the watches. `storage` needs short timeouts: its checks must be more frequent than
        verdicts become stale. `used_storage` is the one of the requests.
        """
        self._watches = {
            "database": BackgroundCheck("database", lambda: probe_database(database)),
            "redis": BackgroundCheck("redis", lambda: probe_redis(redis)),
            "storage": BackgroundCheck(
                "storage", lambda: probe_storage(database, storage, used_storage)
            ),
        }

    def start(self) -> None:
        """Start the threads, and wait a moment for first verdicts, so that the first answer is no
        guess.
        """
        deadline = time.monotonic() + FIRST_SECONDS
        for watch in self._watches.values():
            watch.start()
        for watch in self._watches.values():
            watch.wait_for_first(max(0.0, deadline - time.monotonic()))

    def stop(self) -> None:
        """Stop the threads and the checks in progress, whose connections are closed next."""
        deadline = time.monotonic() + LAST_SECONDS
        for watch in self._watches.values():
            watch.stop()
        for watch in self._watches.values():
            watch.join(max(0.0, deadline - time.monotonic()))

    def read(self) -> Readiness:
        checks = {name: watch.verdict for name, watch in self._watches.items()}
        missing = {name for name, verdict in checks.items() if verdict != OK}
        status: Literal["ok", "degraded", "unavailable"] = "degraded" if missing else "ok"
        if missing & NEEDED:
            status = "unavailable"
        return Readiness(status=status, checks=checks)


def probe_database(database: Database) -> str:
    # Its alembic costs a quarter of a second, which a start need not wait for.
    from app.base import migrate

    try:
        if migrate.compare_schema(database) in ("older", "too old"):
            return "not migrated"
        return OK
    except SQLAlchemyError:
        return "unreachable"


def probe_storage(database: Database, storage: Storage, used_storage: Storage) -> str:
    try:
        row = installation.check(database, storage)
        used_storage.expect(row.id)  # the storage may have been silent when this process started
    except installation.Mismatch as error:  # the log has the names of both
        log.error("not ready", reason=str(error))
        return UNMOUNTED if isinstance(error, installation.Unmounted) else MISMATCH
    except (installation.NotMarked, SQLAlchemyError):
        pass
    except (StorageError, OSError):
        return NOT_WRITABLE
    try:
        storage.probe()
    except (StorageError, OSError) as error:
        return FULL if is_disk_full(error) else NOT_WRITABLE
    folders = (storage.local_root, database.folder)
    return OK if all(map(_has_space, folders)) else FULL


def _has_space(folder: Path | None) -> bool:
    try:
        return folder is None or shutil.disk_usage(folder).free >= MIN_FREE_BYTES
    except OSError:  # the other probes say why
        return True


def probe_redis(redis: Redis) -> str:
    try:
        redis.ping()
    except (RedisError, OSError):
        return "unreachable"
    return OK
