"""The check of files in place of a worker."""

import threading
from contextlib import suppress

from sqlalchemy import select, update

from app.base.database import Database
from app.base.settings import Settings
from app.base.storage import Storage
from app.files import repository
from app.models import File, FileCheck, FileStatus, OperationStatus
from worker.context import WorkerContext
from worker.operations.file_check import FileCheckHandler
from worker.operations.handler import OperationAbandoned


def check_file(database: Database, storage: Storage, file_id: str, settings: Settings) -> list[str]:
    """Check a file unless that is done; return the jobs that may run now."""
    statement = select(FileCheck).where(
        FileCheck.file_id == file_id, FileCheck.status == OperationStatus.IN_PROGRESS
    )
    with database.read() as session:
        operation = session.scalars(statement).one_or_none()
    if operation is None:
        return []
    context = WorkerContext(settings, database, storage, "worker-1", threading.Event())
    with suppress(OperationAbandoned):  # a worker was faster
        return FileCheckHandler(context).check(operation, lambda: None)
    return []


def uncheck_files(database: Database) -> None:
    """Leave every file as its upload does."""
    with database.transaction() as session:
        session.execute(update(File).values(status=FileStatus.UPLOADED))
        for file in session.scalars(select(File)):
            repository.add_check(session, file)


def end_leases(database: Database) -> None:
    """Let the time pass that a silent worker has."""
    with database.transaction() as session:
        session.execute(update(FileCheck).values(lease_expires_at=None))
