"""Run operations of one kind."""

import threading
import time
from abc import abstractmethod
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.base.database import DATABASE_UNAVAILABLE_ERRORS, Database
from app.base.storage import StorageUnavailable
from app.models.base import Base
from app.models.operation import Operation
from app.operations import claims
from falqon_core.contract.errors import is_disk_full
from worker.context import WorkerContext
from worker.machine import pulse
from worker.machine.outage import StorageOutage
from worker.machine.scratch import scratch
from worker.machine.subprocesses import ToolFailed
from worker.models.disk_space import NeverFits, require_space
from worker.models.fetching import BytesDiffer
from worker.models.model_cache import BaseMissing
from worker.operations.poll_loop import PollLoop
from worker.operations.polled_lease import PolledLease

MAX_ATTEMPTS = 3  # of workers that were killed, or whose disk or storage failed
T = TypeVar("T", bound=Operation)
log = structlog.get_logger()


class OperationAbandoned(Exception):
    """This worker ends, or has lost its lease on an operation or an engine."""


class PermanentError(Exception):
    """Another attempt is useless; with a code and a sentence for the user."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


class OperationHandler(PollLoop, Generic[T]):
    kind: type[T]
    limit_seconds: ClassVar[float]
    num_at_once: ClassVar[int] = 1  # in a worker, each of another project

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context.shutting_down, self.num_at_once)
        self._context = context
        self._settings = context.settings
        self._database = context.database
        self._storage = context.storage
        self._outage = StorageOutage(context.storage.probe, context.shutting_down)
        self._claiming = threading.Lock()
        self._last_project_id = ""
        self._busy_project_ids: set[str] = set()

    @abstractmethod
    def _run(self, operation: T, heartbeat: "Heartbeat") -> None:
        """Do the work and complete the operation, calling `heartbeat` all the time.

        May raise `OperationAbandoned` and `PermanentError`. After any other error another attempt
        is made when the lease has run out, `MAX_ATTEMPTS` in all.
        """

    def _num_futile(self, operation: T) -> int:
        """Return the attempts, this one included, that have led nowhere."""
        return operation.attempt

    def _fail(self, session: Session, operation: T, error: PermanentError) -> None:
        """Record that the operation has failed for good."""
        if not claims.fail(session, operation, error.code, error.message):
            raise OperationAbandoned

    def _scratch(self, operation: T) -> AbstractContextManager[Path]:
        root = self._settings.work_dir / self.kind.__tablename__
        return scratch(root, f"{operation.id}.{operation.attempt}")

    def _require_space(self, folder: Path, num_bytes: int) -> None:
        require_space(self._settings.work_dir, folder, num_bytes)

    def _do_next(self) -> bool:
        if not self._outage.wait_for_end():
            return False
        try:
            self._storage.check_installation()
        except StorageUnavailable as error:
            self._outage.begin(error)
            return True
        operation = self._claim()
        if operation is None:
            return False
        try:
            self._execute(operation)
        finally:
            self._busy_project_ids.discard(operation.project_id)
        return True

    def _claim(self) -> T | None:
        """Take what is next; a project has one turn at a time, and then another has it."""
        with self._claiming:
            with self._database.transaction() as session:
                operation = claims.claim(
                    session,
                    self.kind,
                    self._settings.lease.total_seconds(),
                    after=self._last_project_id,
                    without=self._busy_project_ids,
                )
            if operation is not None:
                self._last_project_id = operation.project_id
                self._busy_project_ids.add(operation.project_id)
            return operation

    def _execute(self, operation: T) -> None:
        try:
            if self._num_futile(operation) > MAX_ATTEMPTS:
                raise self._too_many_attempts()
            self._run(operation, Heartbeat(self._context, operation, self.limit_seconds))
        except OperationAbandoned:
            self._release(operation)
        except StorageUnavailable as error:
            self._outage.begin(error)
            self._release(operation)
        except SQLAlchemyError:
            raise
        except Exception as error:  # the top-level handler: one must not keep others waiting
            failure = self._permanent_error(error)
            if failure is None and self._num_futile(operation) >= MAX_ATTEMPTS:
                failure = self._last_error(error)
            log.warning("operation failed", id=operation.id, permanent=bool(failure), exc_info=True)
            if failure is not None:
                with suppress(OperationAbandoned), self._database.transaction() as session:
                    self._fail(session, operation, failure)

    def _release(self, operation: T) -> None:
        with self._database.transaction() as session:
            claims.release(session, operation)

    def _too_many_attempts(self) -> PermanentError:
        return PermanentError(
            f"{self.kind.noun}_failed",
            f"{MAX_ATTEMPTS} workers have not come to its end; "
            "the log of the last one may say why.",
        )

    def _last_error(self, error: Exception) -> PermanentError:
        """Return what the user is to read when no attempt is left."""
        if is_disk_full(error):
            return PermanentError(
                "disk_full",
                f"{MAX_ATTEMPTS} workers have had no room for it on their disks; "
                "ask again when there is some.",
            )
        return self._too_many_attempts()

    def _permanent_error(self, error: Exception) -> PermanentError | None:
        """Return what the user is to read; None where another attempt may succeed."""
        match error:
            case PermanentError():
                return error
            case ToolFailed():
                return PermanentError(error.failure.code, error.failure.message)
            case NeverFits():
                return PermanentError(f"{self.kind.noun}_too_large", str(error))
            case BaseMissing():
                return PermanentError("base_model_missing", str(error))
            case FileNotFoundError() | BytesDiffer():
                message = "What it is made from is not in the storage as it should be."
                return PermanentError("bytes_missing", message)
        return None


def write_progress(database: Database, operation: Operation, *rows: Base, **values: object) -> bool:
    """Set columns that say how far it is, with `rows` of other tables. A database that is away
    misses them, which returns False: the heartbeat decides how long that may last.
    """
    try:
        with database.transaction() as session:
            if not claims.write(session, operation, **values):
                raise OperationAbandoned
            for row in rows:
                session.merge(row)
    except DATABASE_UNAVAILABLE_ERRORS as error:
        log.warning("progress not written", id=operation.id, error=str(error))
        return False
    return True


class Heartbeat:
    """Renews the lease when it is called, now and then. Raises `OperationAbandoned`, and
    `PermanentError` when the operation takes too long.
    """

    def __init__(self, context: WorkerContext, operation: Operation, limit_seconds: float) -> None:
        self._shutting_down = context.shutting_down
        self._operation = operation
        self._limit_seconds = limit_seconds
        self._started_at = time.monotonic()
        self._lease = PolledLease(context, self._renew, id=operation.id)

    def __call__(self) -> None:
        if self._shutting_down.is_set():
            raise OperationAbandoned
        if time.monotonic() > self._started_at + self._limit_seconds:
            raise PermanentError(
                "too_slow", f"It took more than {self._limit_seconds / 60:g} minutes."
            )
        if self._lease.renew_when_due():
            pulse.beat()

    def _renew(self, session: Session, lease_seconds: float) -> None:
        if not claims.renew(session, self._operation, lease_seconds):
            raise OperationAbandoned
