"""Run operations of one kind, one after the other."""

import threading
import time
from abc import abstractmethod
from typing import ClassVar, Generic, TypeVar

import structlog
from obstore.exceptions import BaseError

from app.database import Database
from app.ids import new_id
from app.models.operation import Operation
from app.operations import claims
from app.settings import Settings
from app.storage import Storage, StorageAway
from falqon_core.contract.errors import is_disk_full
from worker import pulse
from worker.attempt.space import NeverFits
from worker.attempt.trainer import ToolFailed
from worker.fetching import BytesDiffer
from worker.model_cache import BaseMissing
from worker.outage import StorageOutage
from worker.poll_loop import PollLoop

MAX_TRIES = 3  # of workers that were killed, or whose disk or storage failed
T = TypeVar("T", bound=Operation)
log = structlog.get_logger()


class OperationAbandoned(Exception):
    """This worker ends, or the operation is not ours any more."""


class PermanentError(Exception):
    """To try again unchanged is useless; with a code and a sentence for the user."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message


class OperationRunner(PollLoop, Generic[T]):
    kind: type[T]
    limit_seconds: ClassVar[float]

    def __init__(self, settings: Settings, database: Database, storage: Storage, drain: threading.Event) -> None:
        super().__init__(drain)
        self._settings = settings
        self._database = database
        self._storage = storage
        self._outage = StorageOutage(storage, drain)
        self._owner = new_id(f"{self.kind.__name__.lower()}-")

    @abstractmethod
    def _run(self, operation: T, check: "Heartbeat") -> None:
        """Do the work, calling `check` all the time.

        May raise `OperationAbandoned`, `PermanentError`, and what `_do_next` knows how to tell.
        """

    def _do_next(self) -> bool:
        if not self._outage.wait_for_end():
            return False
        with self._database.transaction() as session:
            operation = claims.claim(session, self.kind, self._settings.lease.total_seconds())
        if operation is None:
            return False
        try:
            if operation.tries > MAX_TRIES:
                told = f"{MAX_TRIES} workers have not come to its end; the log of the last one may say why."
                raise PermanentError(f"{self.kind.__name__.lower()}_failed", told)
            self._run(operation, Heartbeat(operation, self._database, self._settings, self._drain, self.limit_seconds))
        except OperationAbandoned:
            self._release(operation)
        except StorageAway as error:
            self._outage.begin(error)
            self._release(operation)
        except PermanentError as error:
            self._fail(operation, error.code, error.message)
        except ToolFailed as error:
            log.warning("operation failed", wish_id=operation.id, error=str(error))
            self._fail(operation, error.failure.code, error.failure.message)
        except NeverFits as error:
            self._fail(operation, f"{self.kind.__name__.lower()}_too_large", str(error))
        except BaseMissing as error:
            self._fail(operation, "base_model_missing", str(error))
        except (FileNotFoundError, BytesDiffer) as error:
            log.error("operation impossible", wish_id=operation.id, error=str(error))
            self._fail(operation, "bytes_missing", "What it is made from is not in the storage as it should be.")
        except (OSError, BaseError) as error:  # the claim grows stale, and then it is tried again
            log.warning("operation not fulfilled", wish_id=operation.id, error=str(error), disk_full=is_disk_full(error))
        return True

    def _release(self, operation: T) -> None:
        with self._database.transaction() as session:
            claims.release(session, operation)

    def _fail(self, operation: T, code: str, message: str) -> None:
        with self._database.transaction() as session:
            claims.fail(session, operation, code, message)


class Heartbeat:
    """To be called all the time. Raises `OperationAbandoned`, and `PermanentError` when it takes too long."""

    def __init__(self, operation: Operation, database: Database, settings: Settings, drain: threading.Event, limit_seconds: float) -> None:
        self._operation = operation
        self._database = database
        self._every = settings.heartbeat.total_seconds()
        self._drain = drain
        self._limit_seconds = limit_seconds
        self._started = self._renewed = time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        if self._drain.is_set():
            raise OperationAbandoned
        if now > self._started + self._limit_seconds:
            raise PermanentError("too_slow", f"It took more than {self._limit_seconds / 60:g} minutes.")
        if now > self._renewed + self._every:
            with self._database.transaction() as session:
                if not claims.renew(session, self._operation):
                    raise OperationAbandoned
            self._renewed = now
            pulse.beat()
