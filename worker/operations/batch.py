"""Run batches: check the file, have models answer its requests, and write the files. An attempt
goes on where the lost one stopped, with the requests that have no answer in the database.
"""

import math
from collections.abc import Callable
from pathlib import Path

import structlog
from redis import Redis
from sqlalchemy.orm import Session

from app.auth.rate_limit import RateLimiter
from app.base.database import now_plus
from app.base.storage import Stored
from app.base.storage.storage import chunks_of
from app.batches import repository
from app.files import creation
from app.files import repository as files
from app.garbage import orphans
from app.models import Batch, OperationStatus, Purpose
from app.models.batch import BatchFaults
from app.operations import claims
from app.webhooks import events as webhooks
from worker.attempt.staging import fetch_data
from worker.batches.files import REASONS, UnaskedReason, WrittenFiles, write_files
from worker.batches.lines import check_file, read_lines
from worker.batches.run import BatchHooks, End, ask_all
from worker.context import WorkerContext
from worker.operations.batch_answers import AnswerKeeper
from worker.operations.handler import (
    Heartbeat,
    OperationAbandoned,
    OperationHandler,
    PermanentError,
)

REDIS_TIMEOUT_SECONDS = 1.0
FILES_AT_ONCE = 3  # the requests, and both files beside them

log = structlog.get_logger()


class BatchHandler(OperationHandler[Batch]):
    kind = Batch
    limit_seconds = math.inf  # A batch has a window, after which it expires.
    num_at_once = 4

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context)
        settings = context.settings
        redis = Redis.from_url(
            settings.resolved_redis_url,
            socket_timeout=REDIS_TIMEOUT_SECONDS,
            socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
        )
        rates = (settings.requests_per_minute, settings.tokens_per_minute)
        self._limiter = RateLimiter(redis, *rates)

    def _run(self, operation: Batch, heartbeat: Heartbeat) -> None:
        with self._database.read() as session:
            file = files.get(session, operation.input_file_id)
        with self._scratch(operation) as folder:
            self._require_space(folder, FILES_AT_ONCE * file.bytes)
            (path,) = fetch_data(self._storage, [file], folder, heartbeat)
            if operation.in_progress_at is None and not self._validate(operation, path, heartbeat):
                return
            if operation.ending is None:
                end = self._ask(operation, path, heartbeat)
                with self._database.transaction() as session:
                    _write(session, operation, ending=end, finalizing_at=now_plus())
                operation.ending = end
            reason = _reason_of(operation)
            arguments = (self._database, operation, path, folder, reason, heartbeat)
            self._publish(operation, write_files(*arguments))

    def _num_futile(self, operation: Batch) -> int:
        return operation.attempt - operation.useful_attempt

    def _fail(self, session: Session, operation: Batch, error: PermanentError) -> None:
        """Have the answers so far become files; a batch whose requests nobody has sent, or whose
        files cannot be written, fails at once.
        """
        batch = session.get_one(Batch, operation.id)
        values: dict[str, object] = {"error_code": error.code, "error_message": error.message}
        if batch.in_progress_at is None or batch.ending is not None:
            repository.remove_answers(session, batch.id)
            values |= {"status": OperationStatus.FAILED, "ended_at": now_plus()}
            _tell(session, operation, "failed")
        else:
            values |= {"ending": "failed", "finalizing_at": now_plus(), "lease_expires_at": None}
            values["useful_attempt"] = operation.attempt
        _write(session, operation, **values)

    def _validate(self, operation: Batch, path: Path, heartbeat: Callable[[], None]) -> bool:
        """Check the file; a batch whose file has a fault fails. Return whether it has none."""
        checked = check_file(path, operation.endpoint, heartbeat)
        if checked.faults:
            with self._database.transaction() as session:
                _write(
                    session,
                    operation,
                    status=OperationStatus.FAILED,
                    faults=BatchFaults(data=checked.faults),
                    error_code="invalid_input_file",
                    error_message=checked.faults[0].message,
                    ended_at=now_plus(),
                )
                _tell(session, operation, "failed")
            return False
        values = {"num_lines": checked.num_lines, "model_id": checked.model}
        with self._database.transaction() as session:
            _write(session, operation, in_progress_at=now_plus(), **values)
        operation.model_id = checked.model
        return True

    def _ask(self, operation: Batch, path: Path, heartbeat: Callable[[], None]) -> End:
        with self._database.read() as session:
            answered = repository.answered_lines(session, operation.id)
        lines = (
            line
            for line in read_lines(path, operation.endpoint, heartbeat)
            if line.number not in answered
        )
        keeper = AnswerKeeper(self._context, operation)
        hooks = BatchHooks(heartbeat, keeper.keep, keeper.read_end)
        return ask_all(self._context, operation, lines, self._limiter, hooks)

    def _publish(self, operation: Batch, written: WrittenFiles) -> None:
        """Store the files that have lines, and complete the batch with them."""
        paths = {
            "output": written.output if written.num_completed else None,
            "error": written.errors if written.num_failed else None,
        }
        added = [(name, *self._store(operation, path)) for name, path in paths.items() if path]
        status = OperationStatus.COMPLETED
        if operation.ending == "failed":
            status = OperationStatus.FAILED
        with self._database.transaction() as session:
            values: dict[str, object] = {
                "status": status,
                "ended_at": now_plus(),
                "num_completed": written.num_completed,
                "num_failed": written.num_failed,
            }
            for name, file_id, stored in added:
                creation.add(
                    session,
                    operation.project_id,
                    file_id,
                    stored,
                    filename=f"{operation.id}_{name}.jsonl",
                    purpose=Purpose.BATCH_OUTPUT,
                    lifetime_seconds=operation.output_lifetime_seconds,
                )
                values[f"{name}_file_id"] = file_id
            repository.remove_answers(session, operation.id)
            _tell(session, operation, operation.ending or "completed")
            _write(session, operation, **values)
        log.info("batch ended", batch=operation.id, ending=operation.ending)

    def _store(self, operation: Batch, path: Path) -> tuple[str, Stored]:
        """Return the id of a new file, and its bytes in the storage."""
        file_id, key = creation.new_key(operation.project_id)
        with path.open("rb") as content:
            return file_id, orphans.put(self._database, self._storage, key, chunks_of(content))


def _reason_of(operation: Batch) -> UnaskedReason:
    """Return the error of the requests without an answer."""
    code, message = operation.error_code or "batch_failed", operation.error_message or ""
    return REASONS.get(operation.ending or "", UnaskedReason(code, message))


def _write(session: Session, operation: Batch, **values: object) -> None:
    if not claims.write(session, operation, **values):
        raise OperationAbandoned


def _tell(session: Session, operation: Batch, ending: str) -> None:
    webhooks.record_batch(session, operation.project_id, operation.id, ending)
