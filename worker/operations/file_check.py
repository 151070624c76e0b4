"""Check uploaded files, and end the validation of the jobs that wait for them."""

import math
from collections.abc import Callable

from sqlalchemy.orm import Session

from app.base.errors import BytesMissing
from app.files import repository as files
from app.models import File, FileCheck, FileStatus, Job
from app.notifier.broker import Notifier
from app.operations import claims
from falqon_core.records.file_check import FileReport
from worker.context import WorkerContext
from worker.operations.check_process import check_records
from worker.operations.file_verdict import SPLIT_ADVICE, record_verdict, report_of_fault
from worker.operations.handler import (
    MAX_ATTEMPTS,
    Heartbeat,
    OperationAbandoned,
    OperationHandler,
    PermanentError,
)

BYTES_MISSING = (
    "its bytes are not in the storage; "
    "whoever runs the service has to see to it that API and workers share one"
)


class BytesNotFound(Exception):
    """The bytes are not in the storage, which a folder of several machines may show late."""


class FileCheckHandler(OperationHandler[FileCheck]):
    kind = FileCheck
    limit_seconds = math.inf  # The check has a limit of its own, which goes by the file's size.

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context)
        self._notifier = Notifier(context.settings)

    def _run(self, operation: FileCheck, heartbeat: Heartbeat) -> None:
        for job_id in self.check(operation, heartbeat):
            self._notifier.notify(Job, job_id)

    def check(self, operation: FileCheck, heartbeat: Callable[[], None]) -> list[str]:
        """Judge the file; return the jobs that may run now."""
        with self._database.read() as session:
            file = files.get(session, operation.file_id)
        report = self._report(operation, file, heartbeat)
        status = FileStatus.PROCESSED if report.ok else FileStatus.ERROR
        with self._database.transaction() as session:
            queued = record_verdict(
                session, self._settings, file.id, status, report.summary(), report
            )
            if not claims.complete(session, operation):
                raise OperationAbandoned
        return queued

    def _report(
        self, operation: FileCheck, file: File, heartbeat: Callable[[], None]
    ) -> FileReport:
        try:
            return check_records(self._storage.chunks(file.storage_key), file.bytes, heartbeat)
        except FileNotFoundError as error:
            if not self._outage.answers():  # A missing bucket is an outage, not a missing file.
                raise OperationAbandoned from error
            if operation.attempt < MAX_ATTEMPTS:
                raise BytesNotFound(file.storage_key) from error
            raise PermanentError(BytesMissing.code, BYTES_MISSING) from error

    def _fail(self, session: Session, operation: FileCheck, error: PermanentError) -> None:
        report = None  # The file could not be read.
        details = error.message
        if error.code != BytesMissing.code:
            report = report_of_fault(error.message, SPLIT_ADVICE)
            details = report.summary()
        record_verdict(
            session, self._settings, operation.file_id, FileStatus.ERROR, details, report
        )
        super()._fail(session, operation, error)
