"""Creation of files, of bytes that are stored or of a source that a worker is to read."""

import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TypeVar

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.base.database import Database, now
from app.base.errors import IdempotencyMismatch, InvalidRequest, QuotaExceeded, RateLimited
from app.base.ids import new_id
from app.base.storage import Storage, Stored, keys
from app.base.storage.hashing import Hashes
from app.files import repository
from app.files.addresses import name_of
from app.files.lookup import NO_SHA256, import_of
from app.files.tables import UploadTable
from app.garbage import orphans
from app.models import File, FileCheck, FileImport, FileStatus, Purpose
from app.models.answer_file import AnswerFileOrigin
from app.models.batch import MAX_BATCH_BYTES
from app.notifier.broker import Notifier
from app.operations import service as operations
from app.projects import quotas

T = TypeVar("T")
MAX_NAME_LENGTH = 255
MAX_IMPORTS = 1_000  # pending or running imports per project
UNSHOWABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def validate_name(filename: str | None, param: str) -> str:
    """Return the name to store. Names are only shown; still, one that reads like a path or hides
    something is more likely an attack than an intention.
    """
    name = filename or "upload"
    if (
        len(name) > MAX_NAME_LENGTH
        or name in (".", "..")
        or re.search(r"[/\\]", name)
        or UNSHOWABLE.search(name)
    ):
        raise InvalidRequest(
            f"{param}: a file name has at most {MAX_NAME_LENGTH} characters, "
            "no slashes and no control characters.",
            param=param,
            code="invalid_filename",
        )
    return name


def max_bytes(purpose: Purpose, limit: int) -> int:
    """Return the most bytes of a file where others may have `limit`."""
    return min(limit, MAX_BATCH_BYTES) if purpose is Purpose.BATCH else limit


def new_key(project_id: str) -> tuple[str, str]:
    """Return the id of a new file, and the key of its bytes."""
    file_id = new_id("file-")
    return file_id, keys.file_content(project_id, file_id)


def add(
    session: Session,
    project_id: str,
    file_id: str,
    stored: Stored,
    *,
    filename: str,
    purpose: Purpose,
    lifetime_seconds: int | None = None,
    idempotency_key: str | None = None,
    table: UploadTable | None = None,
    made_of: AnswerFileOrigin | None = None,
) -> File:
    """Add the row of bytes that stand under its key; or return the file of an earlier call with
    the same idempotency key, and leave the bytes an orphan, if there are any.
    """
    if idempotency_key is not None:
        earlier = repository.find_by_key(session, project_id, idempotency_key)
        if earlier is not None:
            _check_repeats(session, earlier, stored, purpose, table)
            return earlier
    key = keys.file_content(project_id, file_id)
    orphans.claim(session, key)
    created_at = now(session)
    expires_at = None
    if lifetime_seconds is not None:
        expires_at = created_at + timedelta(seconds=lifetime_seconds)
    file = File(
        id=file_id,
        project_id=project_id,
        filename=filename,
        purpose=purpose,
        bytes=stored.bytes,
        sha256=stored.sha256,
        storage_key=key,
        idempotency_key=idempotency_key,
        status=FileStatus.UPLOADED if purpose is Purpose.FINE_TUNE else FileStatus.PROCESSED,
        created_at=created_at,
        expires_at=expires_at,
        made_of=made_of,
    )
    session.add(file)
    session.flush()
    if table is not None:
        repository.add_import(
            session, file, filename, table.format, table.mapping, is_uploaded=True
        )
    elif file.status == FileStatus.UPLOADED:
        repository.add_check(session, file)
    return file


def admit(
    session: Session,
    project_id: str,
    num_bytes: int,
    table: UploadTable | None,
    idempotency_key: str | None,
    *,
    freed: int = 0,
) -> bool:
    """Check that the project may have one more file of this size. Return False, unchecked, for a
    call that repeats an earlier one and so adds none.
    """

    def is_stored() -> bool:
        key = idempotency_key
        return key is not None and bool(repository.find_by_key(session, project_id, key))

    if is_stored():
        return False
    try:
        quotas.admit_bytes(session, project_id, num_bytes, freed=freed)
        if table is not None:
            admit_import(session, project_id)
    except (QuotaExceeded, RateLimited):
        # The earlier call may have stored it while this one waited for the project's row.
        if is_stored():
            return False
        raise
    return True


def admit_import(session: Session, project_id: str) -> None:
    """Raise `RateLimited` if too many tables and sources of the project are still to be read."""
    operations.admit(session, FileImport, project_id, MAX_IMPORTS)


def store(
    database: Database, storage: Storage, key: str, chunks: Iterable[bytes], *, is_new: bool
) -> Stored:
    """Write the bytes of a file; those of a repeated call are only hashed, to be compared."""
    if is_new:
        return orphans.put(database, storage, key, chunks)
    hashes = Hashes()
    for chunk in chunks:
        hashes.update(chunk)
    return hashes.stored()


def add_once(add: Callable[[], T]) -> T:
    """Call `add`, and again if another call with the same idempotency key came first: the second
    call finds its file.
    """
    try:
        return add()
    except IntegrityError:
        return add()


def find_from_source(
    session: Session,
    project_id: str,
    source: str,
    mapping: dict[str, str],
    idempotency_key: str | None,
) -> tuple[File, FileImport] | None:
    """Return the file of an earlier call with the same idempotency key."""
    if idempotency_key is None:
        return None
    file = repository.find_by_key(session, project_id, idempotency_key)
    if file is None:
        return None
    imported = import_of(session, file)
    if imported is None or (imported.source, imported.mapping) != (source, mapping):
        raise IdempotencyMismatch(
            f"Idempotency-Key: it was used for {file.id}, which has another source or another "
            "mapping; use a new key for a new file.",
            param="Idempotency-Key",
        )
    return file, imported


def add_from_source(
    session: Session,
    project_id: str,
    source: str,
    mapping: dict[str, str],
    idempotency_key: str | None,
) -> tuple[File, FileImport]:
    """Add a file whose bytes a worker is to bring."""
    file_id, key = new_key(project_id)
    file = File(
        id=file_id,
        project_id=project_id,
        filename=name_of(source),
        purpose=Purpose.FINE_TUNE,
        bytes=0,
        sha256=NO_SHA256,
        storage_key=key,
        idempotency_key=idempotency_key,
        status=FileStatus.UPLOADED,
    )
    session.add(file)
    session.flush()
    repository.add_import(session, file, source, None, mapping, is_uploaded=False)
    session.flush()
    imported = import_of(session, file)
    assert imported is not None
    return file, imported


def notify(notifier: Notifier, file: File, imported: FileImport | None) -> None:
    """Have workers poll for the work on a new file."""
    if file.status == FileStatus.UPLOADED:
        notifier.notify(FileCheck if imported is None else FileImport, file.id)


def _check_repeats(
    session: Session, file: File, stored: Stored, purpose: Purpose, table: UploadTable | None
) -> None:
    imported = import_of(session, file)
    before: tuple[str, str, dict[str, str]] = (file.sha256, file.purpose, {})
    if imported is not None:
        # The file's own records are those of its lines, once it has been read.
        before = (imported.sha256 or file.sha256, file.purpose, imported.mapping)
    if before != (stored.sha256, purpose, table.mapping if table else {}):
        raise IdempotencyMismatch(
            f"Idempotency-Key: it was used for {file.id}, which has other bytes, another "
            "purpose or another mapping; use a new key for a new file.",
            param="Idempotency-Key",
        )
