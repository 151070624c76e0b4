"""Use cases of files, and parts for other packages."""

from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import BinaryIO

from app.auth import audit
from app.auth.caller import Caller
from app.base.errors import IllegalState, InvalidRequest, TooLarge
from app.base.storage.storage import CHUNK_BYTES, chunks_of
from app.files import creation, removal, repository
from app.files.addresses import parse_address
from app.files.lookup import find as find
from app.files.lookup import get as get
from app.files.lookup import get_usable as get_usable
from app.files.lookup import import_of
from app.files.lookup import require_content as require_content
from app.files.repository import names as names
from app.files.repository import other_purposes as other_purposes
from app.files.repository import search as search
from app.files.schemas import MAX_PAGE, FileDeleted, FileObject, Order, SourceRequest
from app.files.tables import UploadTable, table_of
from app.http.downloads import Content, ContentStream, missing_error
from app.http.pagination import Page, check_cursor
from app.models import File, FileCheck, FileImport, FileStatus, OperationStatus, Purpose
from app.models.answer_file import AnswerFileOrigin
from app.projects import quotas
from app.services import Services
from falqon_core.contract.sources import HEAD_BYTES
from falqon_core.records.file_check import good_lines
from falqon_core.records.file_check import read_records as parse_records
from falqon_core.records.jsonl import lines_of
from falqon_core.records.line_parser import Parsed
from falqon_core.records.shapes import Record

UNKNOWN_COLUMNS = "unknown_columns"
FIRST_LINES = 5
FIRST_BYTES = 2**16
FIRST_CHARACTERS = 2_000


def admit_file(
    services: Services, caller: Caller, num_bytes: int, idempotency_key: str | None = None
) -> None:
    """Raise an error if the project has no room for a file whose bytes are about to arrive."""
    with services.database.transaction() as session:
        creation.admit(session, caller.project_id, num_bytes, None, idempotency_key)


def create_file(
    services: Services,
    caller: Caller,
    content: BinaryIO,
    num_bytes: int,
    *,
    filename: str | None,
    purpose: Purpose,
    lifetime_seconds: int | None = None,
    idempotency_key: str | None = None,
    mapping: dict[str, str] | None = None,
) -> FileObject:
    """Store a file; one of purpose `fine-tune` is then checked by a worker, after the conversion of
    a table into JSON lines.
    """
    limit = creation.max_bytes(purpose, services.settings.max_file_bytes)
    if num_bytes > limit:
        raise TooLarge(
            f"file: {num_bytes} bytes; the limit for one file is {limit}. "
            "Larger ones arrive in parts: /v1/uploads.",
            param="file",
        )
    name = creation.validate_name(filename, "file")
    table = table_of(purpose, name, content.read(HEAD_BYTES), mapping)
    content.seek(0)
    return store_file(
        services,
        caller,
        chunks_of(content),
        num_bytes,
        name=name,
        purpose=purpose,
        lifetime_seconds=lifetime_seconds,
        idempotency_key=idempotency_key,
        table=table,
    )


def store_file(
    services: Services,
    caller: Caller,
    chunks: Iterable[bytes],
    num_bytes: int,
    *,
    name: str,
    purpose: Purpose = Purpose.FINE_TUNE,
    lifetime_seconds: int | None = None,
    idempotency_key: str | None = None,
    table: UploadTable | None = None,
    made_of: AnswerFileOrigin | None = None,
) -> FileObject:
    """Store a file of at most `num_bytes`, whose name has been validated."""
    file_id, key = creation.new_key(caller.project_id)
    with services.database.transaction() as session:
        is_new = creation.admit(session, caller.project_id, num_bytes, table, idempotency_key)
    stored = creation.store(services.database, services.storage, key, chunks, is_new=is_new)

    def add() -> File:
        with services.database.transaction() as session:
            # Checked again, because others wrote meanwhile.
            creation.admit(session, caller.project_id, stored.bytes, table, idempotency_key)
            file = creation.add(
                session,
                caller.project_id,
                file_id,
                stored,
                filename=name,
                purpose=purpose,
                lifetime_seconds=lifetime_seconds,
                idempotency_key=idempotency_key,
                table=table,
                made_of=made_of,
            )
            if file.id == file_id:
                audit.record(session, caller, "file.created", file_id)
            return file

    file = creation.add_once(add)
    with services.database.read() as session:
        imported = import_of(session, file)
    creation.notify(services.notifier, file, imported)
    return FileObject.of(file, imported)


def import_file(
    services: Services,
    caller: Caller,
    request: SourceRequest,
    *,
    idempotency_key: str | None = None,
) -> FileObject:
    """Have a worker make a file of the content of an address."""
    parse_address(request.source, services.settings.webhook_networks)
    project_id = caller.project_id
    arguments = (request.source, request.mapping or {}, idempotency_key)

    def add() -> tuple[File, FileImport]:
        with services.database.transaction() as session:
            earlier = creation.find_from_source(session, project_id, *arguments)
            if earlier is not None:
                return earlier
            creation.admit_import(session, project_id)
            quotas.admit_bytes(session, project_id, 0)
            added = creation.add_from_source(session, project_id, *arguments)
            audit.record(session, caller, "file.created", added[0].id)
            return added

    file, imported = creation.add_once(add)
    creation.notify(services.notifier, file, imported)
    return FileObject.of(file, imported)


def map_columns(
    services: Services, caller: Caller, file_id: str, mapping: dict[str, str]
) -> FileObject:
    """Have a worker read the table of a file again, whose columns it did not know."""
    with services.database.transaction() as session:
        file = get(session, caller.project_id, file_id, lock=True)
        imported = import_of(session, file)
        if imported is None or imported.error_code != UNKNOWN_COLUMNS:
            raise IllegalState(
                f"{file_id} is not a table with unknown columns.",
                param="id",
                code="columns_known",
            )
        creation.admit_import(session, caller.project_id)
        repository.withdraw_verdict(session, file)
        again = repository.replace_import(session, file, imported, mapping)
        audit.record(session, caller, "file.columns_mapped", file_id)
    services.notifier.notify(FileImport, file.id)
    return FileObject.of(file, again)


def list_files(
    services: Services,
    caller: Caller,
    *,
    after: str | None = None,
    limit: int = MAX_PAGE,
    order: Order = "desc",
    purpose: str | None = None,
    idempotency_key: str | None = None,
    search: str = "",
) -> Page[FileObject]:
    check_cursor(after, "file-", "a file")
    with services.database.read() as session:
        files = repository.newest_first(
            session,
            caller.project_id,
            after=after,
            limit=limit,
            order=order,
            purpose=purpose,
            idempotency_key=idempotency_key,
            search=search,
        )
        imports = repository.imports_of(session, [file.id for file in files])
    return Page[FileObject].of([FileObject.of(file, imports.get(file.id)) for file in files], limit)


def retrieve_file(services: Services, caller: Caller, file_id: str) -> FileObject:
    with services.database.read() as session:
        file = get(session, caller.project_id, file_id)
        return FileObject.of(file, import_of(session, file))


def retrieve_content(services: Services, caller: Caller, file_id: str) -> Content:
    """Return the location of the bytes of a file, for `downloads.send`."""
    with services.database.read() as session:
        file = get(session, caller.project_id, file_id)
        require_content(file)
    return Content(file.storage_key, file.bytes, file.sha256, file.filename)


def check_file(services: Services, caller: Caller, file_id: str) -> FileObject:
    """Have a worker check the file again, by the current rules. Jobs with a recipe go on; new ones
    wait for the verdict.
    """
    with services.database.transaction() as session:
        file = get(session, caller.project_id, file_id, lock=True)
        if file.purpose != Purpose.FINE_TUNE:
            raise InvalidRequest(
                f"id: {file_id} has purpose '{file.purpose}'; only files of purpose "
                f"'{Purpose.FINE_TUNE}' are checked.",
                param="id",
                code="not_checked",
            )
        if file.status == FileStatus.UPLOADED:
            raise IllegalState(
                "The file is being checked already; wait for the verdict.",
                param="id",
                code="check_in_progress",
            )
        imported = import_of(session, file)
        if imported is not None and imported.status != OperationStatus.COMPLETED:
            raise IllegalState(
                f"{file_id} has a source that could not be read; add it again.",
                param="id",
                code="file_not_ready",
            )
        repository.withdraw_verdict(session, file)
        repository.add_check(session, file)
        audit.record(session, caller, "file.checked", file_id)
    services.notifier.notify(FileCheck, file.id)
    return FileObject.of(file, imported)


def retrieve_good_lines(services: Services, caller: Caller, file_id: str) -> ContentStream:
    """Return the lines that hold a record, found while they are read."""
    with services.database.read() as session:
        file = get(session, caller.project_id, file_id)
        require_content(file)
    lines = good_lines(lines_of(services.storage.chunks(file.storage_key)))
    name = f"{PurePath(file.filename).stem}-good.jsonl"
    return ContentStream(_in_chunks(lines), None, name, "application/jsonl")


def read_first_lines(services: Services, caller: Caller, file_id: str) -> list[str]:
    """Read the first lines of a file, cut, to be shown."""
    with services.database.read() as session:
        file = get(session, caller.project_id, file_id)
    lines = _head(services, file).decode(errors="replace").splitlines()[:FIRST_LINES]
    return [line[:FIRST_CHARACTERS] for line in lines if line.strip()]


def read_first_records(services: Services, caller: Caller, file_id: str) -> list[Record]:
    """Read the records at the beginning of a file, without those that are not well-formed."""
    with services.database.read() as session:
        file = get(session, caller.project_id, file_id)
    head = _head(services, file)
    if len(head) < file.bytes:
        head = head[: head.rfind(b"\n") + 1]  # the last line is cut
    parsed = (parsed for _, parsed in parse_records(lines_of([head])))
    return [line.record for line in parsed if isinstance(line, Parsed)]


def read_records(services: Services, caller: Caller, file_id: str) -> Iterator[Record]:
    """Read the records of a file, without the lines that hold none."""
    with services.database.read() as session:
        file = get(session, caller.project_id, file_id)
        require_content(file)
    for _, outcome in parse_records(lines_of(services.storage.chunks(file.storage_key))):
        if isinstance(outcome, Parsed):
            yield outcome.record


def _head(services: Services, file: File) -> bytes:
    if file.bytes == 0:
        return b""
    part = (0, min(FIRST_BYTES, file.bytes))
    try:
        return b"".join(services.storage.chunks(file.storage_key, part))
    except FileNotFoundError:
        raise missing_error(file.storage_key) from None


def _in_chunks(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Join lines, because each chunk that is sent has a cost."""
    chunk = bytearray()
    for line in lines:
        chunk += line
        if len(chunk) >= CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk)


def delete_file(services: Services, caller: Caller, file_id: str) -> FileDeleted:
    with services.database.transaction() as session:
        removal.delete(session, caller.project_id, file_id)
        audit.record(session, caller, "file.deleted", file_id)
    return FileDeleted(id=file_id)
