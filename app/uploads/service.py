"""Files that arrive in parts. The bytes of a part, and those of the finished file, stand in storage before their row does."""

import hashlib
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import BinaryIO

from sqlalchemy.orm import Session

from app.database import Database, now
from app.errors import IllegalState, InvalidRequest, NotFound, TooLarge
from app.files import service as files
from app.garbage import orphans
from app.ids import new_id
from app.models import File, Purpose, Upload, UploadPart, UploadStatus
from app.projects import quotas
from app.settings import Settings
from app.storage import Storage, keys
from app.storage.storage import CHUNK_BYTES
from app.uploads import repository

LIFETIME = timedelta(hours=1)
MAX_PART_BYTES = 64 * 2**20  # what the official client cuts files into
MAX_PARTS = 10_000
MAX_REPETITION = 2  # parts may hold this many times the upload's bytes together: a client sends one again when an answer was lost


def create(
    session: Session, project_id: str, settings: Settings, *, filename: str, purpose: Purpose, num_bytes: int, lifetime_seconds: int | None
) -> Upload:
    if num_bytes > settings.max_upload_bytes:
        raise TooLarge(f"bytes: {num_bytes}; the limit for one file is {settings.max_upload_bytes}.", param="bytes")
    quotas.admit_bytes(session, project_id, num_bytes)
    created_at = now(session)
    upload = Upload(
        id=new_id("upload_"),
        project_id=project_id,
        status=UploadStatus.PENDING,
        filename=files.checked_name(filename, "filename"),
        purpose=purpose,
        bytes=num_bytes,
        file_lifetime_seconds=lifetime_seconds,
        created_at=created_at,
        expires_at=created_at + LIFETIME,
    )
    session.add(upload)
    session.flush()
    return upload


def add_part(database: Database, storage: Storage, project_id: str, upload_id: str, content: BinaryIO, num_bytes: int) -> UploadPart:
    with database.transaction() as session:
        _must_take(session, _pending(session, project_id, upload_id), num_bytes)
        quotas.admit_bytes(session, project_id, num_bytes)
    part_id = new_id("part_")
    key = keys.upload_part(project_id, upload_id, part_id)
    stored = orphans.put(database, storage, key, iter(lambda: content.read(CHUNK_BYTES), b""))
    with database.transaction() as session:
        _must_take(session, _pending(session, project_id, upload_id, lock=True), stored.bytes)
        quotas.admit_bytes(session, project_id, stored.bytes)  # again: others wrote meanwhile
        orphans.adopt(session, key)
        part = UploadPart(id=part_id, upload_id=upload_id, bytes=stored.bytes, storage_key=key)
        session.add(part)
        session.flush()
        session.refresh(part)
    return part


def complete(
    database: Database, storage: Storage, project_id: str, upload_id: str, part_ids: list[str], md5: str | None
) -> tuple[Upload, File | None]:
    """The upload with its file. Said twice it is done once; that file may have been deleted in between."""
    with database.transaction() as session:
        upload = _get(session, project_id, upload_id, lock=True)  # or its parts may go while we look for them
        if _completed_with(upload, part_ids):
            return upload, _file_of(session, upload)
        _must_be_pending(session, upload)
        parts = _ordered_parts(session, upload, part_ids)
    file_id, key = files.new_key(project_id)
    stored = orphans.put(database, storage, key, _joined(storage, parts, md5))
    with database.transaction() as session:
        upload = _get(session, project_id, upload_id, lock=True)
        if _completed_with(upload, part_ids):  # by the same call on another connection
            return upload, _file_of(session, upload)
        _must_be_pending(session, upload)
        _drop_parts(session, [upload.id])
        quotas.admit_bytes(session, project_id, stored.bytes)
        file = files.add(
            session,
            project_id,
            file_id,
            stored,
            filename=upload.filename,
            purpose=Purpose(upload.purpose),
            lifetime_seconds=upload.file_lifetime_seconds,
        )
        upload.status, upload.file_id, upload.part_ids = UploadStatus.COMPLETED, file.id, part_ids
    return upload, file


def cancel(session: Session, project_id: str, upload_id: str) -> Upload:
    upload = _get(session, project_id, upload_id, lock=True)
    if upload.status != UploadStatus.CANCELLED:
        _must_be_pending(session, upload)
        upload.status = UploadStatus.CANCELLED
        _drop_parts(session, [upload.id])
    return upload


def expire(database: Database) -> int:
    """End some uploads whose hour has passed."""
    with database.read() as session:
        if not repository.any_overdue(session):
            return 0
    with database.transaction() as session:
        ended = repository.expire(session)
        _drop_parts(session, ended)
        return len(ended)


def _get(session: Session, project_id: str, upload_id: str, *, lock: bool = False) -> Upload:
    upload = repository.find(session, project_id, upload_id, lock=lock)
    if upload is None:
        raise NotFound(f"No such Upload object: {upload_id}", param="upload_id")
    return upload


def _pending(session: Session, project_id: str, upload_id: str, *, lock: bool = False) -> Upload:
    upload = _get(session, project_id, upload_id, lock=lock)
    _must_be_pending(session, upload)
    return upload


def _must_be_pending(session: Session, upload: Upload) -> None:
    status = upload.status
    if status == UploadStatus.PENDING and upload.expires_at <= now(session):
        status = UploadStatus.EXPIRED
    if status != UploadStatus.PENDING:
        raise IllegalState(f"The upload is {status}; begin a new one.", param="upload_id", code=f"upload_{status}")


def _must_take(session: Session, upload: Upload, num_bytes: int) -> None:
    if num_bytes < 1:
        raise InvalidRequest("data: the part is empty.", param="data")
    if num_bytes > MAX_PART_BYTES:
        raise TooLarge(f"data: {num_bytes} bytes; the limit for one part is {MAX_PART_BYTES}.", param="data")
    count, total = repository.size_of_parts(session, upload.id)
    if num_bytes > upload.bytes or total + num_bytes > MAX_REPETITION * upload.bytes:
        message = f"data: with these {num_bytes} bytes the parts would hold {total + num_bytes}; the upload was created for {upload.bytes}."
        raise InvalidRequest(message, param="data", code="too_many_bytes")
    if count >= MAX_PARTS:
        raise InvalidRequest(f"data: the upload has {count} parts, the most there may be.", param="data", code="too_many_parts")


def _ordered_parts(session: Session, upload: Upload, part_ids: Sequence[str]) -> list[UploadPart]:
    if len(set(part_ids)) < len(part_ids):
        raise InvalidRequest("part_ids: a part is named twice.", param="part_ids")
    found = repository.parts(session, upload.id, part_ids)
    if missing := next((part_id for part_id in part_ids if part_id not in found), None):
        raise InvalidRequest(f"part_ids: no such part of this upload: {missing}", param="part_ids", code="part_not_found")
    total = sum(part.bytes for part in found.values())
    if total != upload.bytes:
        message = f"part_ids: the parts hold {total} bytes together; the upload was created for {upload.bytes}."
        raise InvalidRequest(message, param="part_ids", code="bytes_mismatch")
    return [found[part_id] for part_id in part_ids]


def _joined(storage: Storage, parts: Sequence[UploadPart], md5: str | None) -> Iterator[bytes]:
    digest = hashlib.md5(usedforsecurity=False)
    for part in parts:
        for chunk in storage.chunks(part.storage_key):
            if md5 is not None:
                digest.update(chunk)
            yield chunk
    if md5 is not None and digest.hexdigest() != md5.lower():  # before the end of the stream: the object never appears
        raise InvalidRequest(f"md5: the bytes have {digest.hexdigest()}, not {md5}.", param="md5", code="md5_mismatch")


def _completed_with(upload: Upload, part_ids: list[str]) -> bool:
    return upload.status == UploadStatus.COMPLETED and upload.part_ids == part_ids


def _file_of(session: Session, upload: Upload) -> File | None:
    return files.find(session, upload.project_id, upload.file_id)


def _drop_parts(session: Session, upload_ids: Sequence[str]) -> None:
    orphans.abandon(session, repository.remove_parts(session, upload_ids))
