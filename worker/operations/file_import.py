"""Make a table the JSON lines of its file: a program of its own reads it, here its lines are stored
and put in the place of what was uploaded. The check of the lines is an operation of its own.
"""

import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePath

from sqlalchemy.orm import Session

from app.base.database import Database
from app.base.errors import QuotaExceeded
from app.base.storage import Stored, keys
from app.base.storage.storage import chunks_of
from app.files import repository as files
from app.garbage import orphans
from app.models import File, FileCheck, FileImport, FileStatus
from app.notifier.broker import Notifier
from app.operations import claims
from app.projects import quotas
from app.source_tokens import repository as source_tokens
from falqon_core.contract.messages import RecordsWritten, TrainerMessage
from falqon_core.contract.sources import unpacked_name
from worker.context import WorkerContext
from worker.machine.subprocesses import ToolFailed, run_tool
from worker.models.fetching import ObjectMissing, fetch
from worker.operations.file_verdict import record_verdict, report_of_fault
from worker.operations.handler import (
    MAX_ATTEMPTS,
    Heartbeat,
    OperationAbandoned,
    OperationHandler,
    PermanentError,
    write_progress,
)
from worker.sources.download import SourceRefused, SourceUnavailable
from worker.sources.tables import SourceReader, SourceTable, kind_of_secret

READER_COMMAND = [sys.executable, "-m", "falqon_core.tables"]
USER_ERROR_CODES = ("unknown_columns", "source_unreadable", "source_too_large")
SPACE_FACTOR = 3  # the lines of a table are rarely more than twice its bytes
WRITTEN_EVERY_SECONDS = 1.0
LOCK_SECONDS = 1.0  # between two heartbeats while another table is read
SHOWN_RECORDS = 5
SHOWN_CHARACTERS = 2_000
CORRECTION = "correct the source or its mapping, and add it again"


@dataclass(frozen=True, slots=True)
class Reading:
    """What the tables of an import have become so far."""

    digest: "hashlib._Hash"
    lines: list[Path]
    ignored: list[str]


class FileImportHandler(OperationHandler[FileImport]):
    kind = FileImport
    limit_seconds = 6 * 3600.0
    num_at_once = 4  # a source may send slowly for hours

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context)
        self._reading = threading.Lock()  # of tables, which takes memory
        self._notifier = Notifier(context.settings)

    def _run(self, operation: FileImport, heartbeat: Heartbeat) -> None:
        with self._scratch(operation) as folder:
            progress = ProgressWriter(self._database, operation)
            reading = Reading(hashlib.sha256(), [], [])
            num_bytes = 0
            for table in self._tables(operation, folder, heartbeat, progress):
                num_bytes += table.path.stat().st_size
                self._write_lines(operation, table, reading, heartbeat, progress)
                table.path.unlink()
            self._publish(
                operation,
                reading.lines,
                heartbeat,
                ignored_columns=list(dict.fromkeys(reading.ignored)),
                format=table.format,
                revision=table.revision,
                sha256=reading.digest.hexdigest(),
                bytes=num_bytes,
            )
        self._notifier.notify(FileCheck, operation.file_id)

    def _tables(
        self, operation: FileImport, folder: Path, heartbeat: Heartbeat, progress: "ProgressWriter"
    ) -> Iterator[SourceTable]:
        if operation.is_uploaded:
            self._fetch_upload(operation, folder / "table", heartbeat)
            yield SourceTable(folder / "table", operation.format or "jsonl")
            return
        with self._database.read() as session:
            kind = kind_of_secret(operation.source)
            token = source_tokens.find(session, operation.project_id, kind)
        reader = SourceReader(self._settings, heartbeat, progress.fetched)
        secret = token.secret if token else {}
        try:
            for table in reader.fetch(operation.source, secret, operation.revision, folder):
                progress.write(revision=table.revision, format=table.format)
                yield table
        except SourceRefused as error:
            raise PermanentError(error.code, error.message) from error
        except SourceUnavailable as error:
            if operation.attempt < MAX_ATTEMPTS:
                raise
            raise PermanentError("source_unavailable", f"The source fails: {error}.") from error

    def _fetch_upload(self, operation: FileImport, target: Path, heartbeat: Heartbeat) -> None:
        with self._database.read() as session:
            file = files.get(session, operation.file_id)
        self._require_space(target.parent, SPACE_FACTOR * file.bytes)
        heartbeat()
        try:
            fetch(self._storage, file.storage_key, target, file.sha256)
        except ObjectMissing as error:
            if operation.attempt < MAX_ATTEMPTS:  # a folder of several machines may show it late
                raise OSError(f"{file.storage_key} is not in the storage yet") from error
            raise

    def _write_lines(
        self,
        operation: FileImport,
        table: SourceTable,
        reading: Reading,
        heartbeat: Heartbeat,
        progress: "ProgressWriter",
    ) -> None:
        """Write the lines of a table beside those of the tables before it."""
        self._require_space(table.path.parent, (SPACE_FACTOR - 1) * table.path.stat().st_size)
        for chunk in _of_file(table.path, heartbeat):
            reading.digest.update(chunk)
        written = sum(path.stat().st_size for path in reading.lines)
        lines = table.path.with_name(f"{table.position}.jsonl")
        reading.lines.append(lines)

        def on_message(message: TrainerMessage) -> None:
            if not isinstance(message, RecordsWritten):
                return
            reading.ignored.extend(message.ignored_columns)
            if message.num_records or message.fraction:
                progress.written(table, message, reading.lines[0])
            else:  # Its columns are unknown: users choose among them.
                progress.write(ignored_columns=message.ignored_columns)

        arguments = [str(table.path), "--format", table.format, "--output", str(lines)]
        arguments += ["--mapping", json.dumps(operation.mapping)]
        arguments += ["--max-bytes", str(self._settings.max_upload_bytes - written)]
        try:
            with _holding(self._reading, heartbeat):
                run_tool(READER_COMMAND, arguments, heartbeat, on_message)
        except ToolFailed as error:
            if error.failure.code in USER_ERROR_CODES:
                raise
            raise OSError("the program that reads the table has ended") from error

    def _publish(
        self, operation: FileImport, lines: list[Path], heartbeat: Heartbeat, **values: object
    ) -> None:
        """Store the lines, and have them checked."""
        key = keys.imported_content(operation.project_id, operation.file_id, operation.attempt)
        chunks = chain.from_iterable(_of_file(path, heartbeat) for path in lines)
        stored = orphans.put(self._database, self._storage, key, chunks)
        try:
            with self._database.transaction() as session:
                self._replace(session, operation, key, stored)
                if not claims.complete(session, operation, progress=1.0, **values):
                    raise OperationAbandoned
        except QuotaExceeded as error:
            raise PermanentError(str(error.code), error.message) from error

    def _replace(self, session: Session, operation: FileImport, key: str, stored: Stored) -> None:
        file = files.get(session, operation.file_id)
        before, filename = file.storage_key, _name_of_lines(file)
        if not files.replace_content(session, file.id, key, stored, filename):
            raise OperationAbandoned
        orphans.claim(session, key)
        orphans.mark_orphaned(session, [before])
        files.add_check(session, file)
        session.flush()
        quotas.admit_bytes(session, operation.project_id, 0)  # what they are more is in the row

    def _fail(self, session: Session, operation: FileImport, error: PermanentError) -> None:
        report = report_of_fault(error.message, CORRECTION, error.code)
        file_id, status = operation.file_id, FileStatus.ERROR
        record_verdict(session, self._settings, file_id, status, error.message, report)
        super()._fail(session, operation, error)


class ProgressWriter:
    """Writes down how far an import is: of each table, fetching it is one half, reading it the
    other.
    """

    def __init__(self, database: Database, operation: FileImport) -> None:
        self._database = database
        self._operation = operation
        self._written_at = 0.0
        self._num_records: dict[int, int] = {}  # of each table, by its position

    def fetched(self, table: SourceTable, fraction: float) -> None:
        if time.monotonic() > self._written_at + WRITTEN_EVERY_SECONDS:
            self._written_at = time.monotonic()
            self.write(progress=(table.position + fraction / 2) / table.num_tables)

    def written(self, table: SourceTable, message: RecordsWritten, lines: Path) -> None:
        share = message.fraction if self._operation.is_uploaded else (1 + message.fraction) / 2
        self._num_records[table.position] = message.num_records
        self.write(
            progress=(table.position + share) / table.num_tables,
            num_records=sum(self._num_records.values()),
            first_records=_first_records(lines),
        )

    def write(self, **values: object) -> None:
        write_progress(self._database, self._operation, **values)


@contextmanager
def _holding(lock: threading.Lock, heartbeat: Callable[[], None]) -> Iterator[None]:
    while not lock.acquire(timeout=LOCK_SECONDS):
        heartbeat()
    try:
        yield
    finally:
        lock.release()


def _first_records(lines: Path) -> list[str]:
    with lines.open("rb") as file:
        head = file.read(SHOWN_RECORDS * SHOWN_CHARACTERS * 4).splitlines()[:SHOWN_RECORDS]
    return [line.decode(errors="replace")[:SHOWN_CHARACTERS] for line in head]


def _name_of_lines(file: File) -> str:
    return PurePath(unpacked_name(file.filename)).with_suffix(".jsonl").name


def _of_file(path: Path, heartbeat: Callable[[], None]) -> Iterator[bytes]:
    with path.open("rb") as file:
        for chunk in chunks_of(file):
            heartbeat()
            yield chunk
