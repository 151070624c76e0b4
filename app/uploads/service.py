"""Use cases of uploads, files that arrive in parts. The bytes of a part, and those of the finished
file, stand in the storage before their row does.
"""

import hashlib
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import BinaryIO

from sqlalchemy.orm import Session

from app.auth import audit
from app.auth.caller import Caller
from app.base.database import Database, now
from app.base.errors import IllegalState, InvalidRequest, NotFound, TooLarge
from app.base.ids import new_id
from app.base.storage import Storage, Stored, keys
from app.base.storage.storage import chunks_of
from app.files import creation, lookup, tables
from app.files.tables import UploadTable
from app.garbage import orphans
from app.models import File, Purpose, Upload, UploadPart, UploadStatus
from app.projects import quotas
from app.services import Services
from app.uploads import leases, repository
from app.uploads.schemas import MAX_PARTS, PartObject, UploadObject, UploadRequest
from falqon_core.contract.sources import HEAD_BYTES

LIFETIME = timedelta(hours=1)
MAX_PART_BYTES = 64 * 2**20  # what the official client cuts files into
# Parts may hold this many times the upload's bytes together: a client sends one again when an
# answer was lost.
MAX_REPETITION = 2


def create_upload(services: Services, caller: Caller, request: UploadRequest) -> UploadObject:
    limit = creation.max_bytes(request.purpose, services.settings.max_upload_bytes)
    if request.bytes > limit:
        raise TooLarge(f"bytes: {request.bytes}; the limit for one file is {limit}.", param="bytes")
    with services.database.transaction() as session:
        quotas.admit_bytes(session, caller.project_id, request.bytes)
        created_at = now(session)
        upload = Upload(
            id=new_id("upload_"),
            project_id=caller.project_id,
            status=UploadStatus.PENDING,
            filename=creation.validate_name(request.filename, "filename"),
            purpose=request.purpose,
            bytes=request.bytes,
            file_lifetime_seconds=request.expires_after.seconds if request.expires_after else None,
            created_at=created_at,
            expires_at=created_at + LIFETIME,
        )
        session.add(upload)
        session.flush()
        audit.record(session, caller, "upload.created", upload.id)
    return UploadObject.of(upload)


def admit_part(services: Services, caller: Caller, num_bytes: int) -> None:
    """Raise an error if the project has no room for a part whose bytes are about to arrive."""
    with services.database.transaction() as session:
        quotas.admit_bytes(session, caller.project_id, num_bytes)


def create_part(
    services: Services, caller: Caller, upload_id: str, content: BinaryIO, num_bytes: int
) -> PartObject:
    with services.database.transaction() as session:
        check_part(session, caller.project_id, upload_id, num_bytes)
        quotas.admit_bytes(session, caller.project_id, num_bytes)
    part_id = new_id("part_")
    key = keys.upload_part(caller.project_id, upload_id, part_id)
    stored = orphans.put(services.database, services.storage, key, chunks_of(content))
    with services.database.transaction() as session:
        # Checked again, because others wrote meanwhile.
        check_part(session, caller.project_id, upload_id, stored.bytes, lock=True)
        quotas.admit_bytes(session, caller.project_id, stored.bytes)
        part = add_part(session, upload_id, part_id, key, stored)
    return PartObject.of(part)


def complete_upload(
    services: Services,
    caller: Caller,
    upload_id: str,
    part_ids: list[str],
    *,
    md5: str | None = None,
    idempotency_key: str | None = None,
) -> UploadObject:
    """Make the file out of the parts. Idempotent; the file may have been deleted meanwhile."""
    upload, file = _complete(services, caller, upload_id, part_ids, md5, idempotency_key)
    if file is None:
        return UploadObject.of(upload)
    with services.database.read() as session:
        imported = lookup.import_of(session, file)
    creation.notify(services.notifier, file, imported)
    return UploadObject.of(upload, file, imported)


def cancel_upload(services: Services, caller: Caller, upload_id: str) -> UploadObject:
    with services.database.transaction() as session:
        upload = _get(session, caller.project_id, upload_id, lock=True)
        if upload.status != UploadStatus.CANCELLED:
            _must_be_pending(session, upload)
            upload.status = UploadStatus.CANCELLED
            _drop_parts(session, [upload.id])
            audit.record(session, caller, "upload.cancelled", upload_id)
        return UploadObject.of(upload)


def _complete(
    services: Services,
    caller: Caller,
    upload_id: str,
    part_ids: list[str],
    md5: str | None,
    idempotency_key: str | None,
) -> tuple[Upload, File | None]:
    project_id = caller.project_id
    with services.database.transaction() as session:
        # Locked, or its parts may go during the search.
        upload = _get(session, project_id, upload_id, lock=True)
        if is_completed_with(upload, part_ids):
            return upload, lookup.find(session, project_id, upload.file_id)
        parts = order_parts(session, upload, part_ids)
        leases.claim(session, upload, services.settings.lease)
    with leases.released_on_error(services.database, upload):
        return _copy_parts(services, caller, upload, parts, md5, idempotency_key)


def _copy_parts(
    services: Services,
    caller: Caller,
    upload: Upload,
    parts: Sequence[UploadPart],
    md5: str | None,
    idempotency_key: str | None,
) -> tuple[Upload, File | None]:
    """Write the file and add its row, as the holder of the lease."""
    project_id, upload_id = caller.project_id, upload.id
    part_ids = [part.id for part in parts]
    table = table_of(services.storage, upload, parts)
    is_new = _admit_file(services.database, upload, table, idempotency_key)
    file_id, key = creation.new_key(project_id)
    chunks = leases.renew_while_reading(
        services.database,
        upload,
        services.settings.lease,
        join_parts(services.storage, parts, md5),
    )
    stored = creation.store(services.database, services.storage, key, chunks, is_new=is_new)

    def complete() -> tuple[Upload, File | None]:
        with services.database.transaction() as session:
            upload = _get(session, project_id, upload_id, lock=True)
            if is_completed_with(upload, part_ids):  # the lease was lost to it
                return upload, lookup.find(session, project_id, upload.file_id)
            file = make_file(
                session,
                upload,
                part_ids,
                file_id,
                stored,
                idempotency_key=idempotency_key,
                table=table,
            )
            audit.record(session, caller, "upload.completed", upload_id)
            return upload, file

    return creation.add_once(complete)


def _admit_file(
    database: Database, upload: Upload, table: UploadTable | None, idempotency_key: str | None
) -> bool:
    """Check that the file may take the place of the parts, as `creation.admit` does."""
    with database.transaction() as session:
        # Locked, or a part may come between the two counts.
        _get(session, upload.project_id, upload.id, lock=True)
        _, freed = repository.size_of_parts(session, upload.id)
        return creation.admit(
            session, upload.project_id, upload.bytes, table, idempotency_key, freed=freed
        )


def check_part(
    session: Session, project_id: str, upload_id: str, num_bytes: int, *, lock: bool = False
) -> None:
    """Raise an error if a part of this size is not allowed."""
    upload = _get(session, project_id, upload_id, lock=lock)
    _must_be_pending(session, upload)
    if num_bytes < 1:
        raise InvalidRequest("data: the part is empty.", param="data")
    if num_bytes > MAX_PART_BYTES:
        raise TooLarge(
            f"data: {num_bytes} bytes; the limit for one part is {MAX_PART_BYTES}.", param="data"
        )
    count, total = repository.size_of_parts(session, upload.id)
    if num_bytes > upload.bytes or total + num_bytes > MAX_REPETITION * upload.bytes:
        raise InvalidRequest(
            f"data: with these {num_bytes} bytes the parts would hold {total + num_bytes}; "
            f"the upload was created for {upload.bytes}.",
            param="data",
            code="too_many_bytes",
        )
    if count >= MAX_PARTS:
        raise InvalidRequest(
            f"data: the upload has {count} parts, the maximum.",
            param="data",
            code="too_many_parts",
        )


def add_part(
    session: Session, upload_id: str, part_id: str, key: str, stored: Stored
) -> UploadPart:
    """Add the row of stored bytes."""
    orphans.claim(session, key)
    part = UploadPart(id=part_id, upload_id=upload_id, bytes=stored.bytes, storage_key=key)
    session.add(part)
    session.flush()
    session.refresh(part)
    return part


def order_parts(session: Session, upload: Upload, part_ids: Sequence[str]) -> list[UploadPart]:
    """Return the parts that together are the file. Raises the reason against completing it."""
    _must_be_pending(session, upload)
    if len(set(part_ids)) < len(part_ids):
        raise InvalidRequest("part_ids: a part is named twice.", param="part_ids")
    parts = repository.parts(session, upload.id, part_ids)
    if missing := next((part_id for part_id in part_ids if part_id not in parts), None):
        raise InvalidRequest(
            f"part_ids: no such part of this upload: {missing}",
            param="part_ids",
            code="part_not_found",
        )
    total = sum(part.bytes for part in parts.values())
    if total != upload.bytes:
        raise InvalidRequest(
            f"part_ids: the parts hold {total} bytes together; "
            f"the upload was created for {upload.bytes}.",
            param="part_ids",
            code="bytes_mismatch",
        )
    return [parts[part_id] for part_id in part_ids]


def table_of(storage: Storage, upload: Upload, parts: Sequence[UploadPart]) -> UploadTable | None:
    """Return the table that the parts form, if it has to become JSON lines."""
    head = b""
    if parts:
        head = next(storage.chunks(parts[0].storage_key, (0, min(HEAD_BYTES, parts[0].bytes))), b"")
    return tables.table_of(Purpose(upload.purpose), upload.filename, head)


def join_parts(storage: Storage, parts: Sequence[UploadPart], md5: str | None) -> Iterator[bytes]:
    """Read one part after the other. Raises before the end of the stream, so that a file with
    another MD5 never appears.
    """
    digest = hashlib.md5(usedforsecurity=False)
    for part in parts:
        for chunk in storage.chunks(part.storage_key):
            if md5 is not None:
                digest.update(chunk)
            yield chunk
    if md5 is not None and digest.hexdigest() != md5.lower():
        raise InvalidRequest(
            f"md5: the bytes have {digest.hexdigest()}, not {md5}.",
            param="md5",
            code="md5_mismatch",
        )


def make_file(
    session: Session,
    upload: Upload,
    part_ids: list[str],
    file_id: str,
    stored: Stored,
    *,
    idempotency_key: str | None,
    table: UploadTable | None,
) -> File:
    """Replace the parts with the file; with a key that has a file already, with that one."""
    _must_be_pending(session, upload)
    _drop_parts(session, [upload.id])
    creation.admit(session, upload.project_id, stored.bytes, table, idempotency_key)
    file = creation.add(
        session,
        upload.project_id,
        file_id,
        stored,
        filename=upload.filename,
        purpose=Purpose(upload.purpose),
        lifetime_seconds=upload.file_lifetime_seconds,
        idempotency_key=idempotency_key,
        table=table,
    )
    upload.status = UploadStatus.COMPLETED
    upload.file_id = file.id
    upload.part_ids = part_ids
    return file


def expire(database: Database) -> int:
    """End some uploads whose hour has passed."""
    with database.read() as session:
        if not repository.any_overdue(session):
            return 0
    with database.transaction() as session:
        ended = repository.expire(session)
        _drop_parts(session, ended)
        return len(ended)


def is_completed_with(upload: Upload, part_ids: list[str]) -> bool:
    return upload.status == UploadStatus.COMPLETED and upload.part_ids == part_ids


def _get(session: Session, project_id: str, upload_id: str, *, lock: bool) -> Upload:
    upload = repository.find(session, project_id, upload_id, lock=lock)
    if upload is None:
        raise NotFound(f"No such Upload object: {upload_id}", param="upload_id")
    return upload


def _must_be_pending(session: Session, upload: Upload) -> None:
    status = upload.status
    if status == UploadStatus.PENDING and upload.expires_at <= now(session):
        status = UploadStatus.EXPIRED
    if status != UploadStatus.PENDING:
        raise IllegalState(
            f"The upload is {status}; begin a new one.", param="upload_id", code=f"upload_{status}"
        )


def _drop_parts(session: Session, upload_ids: Sequence[str]) -> None:
    orphans.mark_orphaned(session, repository.remove_parts(session, upload_ids))
