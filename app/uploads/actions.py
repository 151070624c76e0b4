"""What callers do with uploads, files that arrive in parts. The bytes of a part, and those of the
finished file, stand in the storage before their row does.
"""

from typing import BinaryIO

from app.auth.caller import Caller
from app.base.ids import new_id
from app.base.storage import keys
from app.base.storage.storage import chunks_of
from app.files import service as files
from app.garbage import orphans
from app.models import File, Upload
from app.projects import quotas
from app.services import Services
from app.uploads import service
from app.uploads.schemas import PartObject, UploadObject, UploadRequest


def create_upload(services: Services, caller: Caller, request: UploadRequest) -> UploadObject:
    with services.database.transaction() as session:
        upload = service.create(
            session,
            caller.project_id,
            services.settings,
            filename=request.filename,
            purpose=request.purpose,
            num_bytes=request.bytes,
            lifetime_seconds=request.expires_after.seconds if request.expires_after else None,
        )
    return UploadObject.of(upload)


def create_part(
    services: Services, caller: Caller, upload_id: str, content: BinaryIO, num_bytes: int
) -> PartObject:
    with services.database.transaction() as session:
        service.check_part(session, caller.project_id, upload_id, num_bytes)
        quotas.admit_bytes(session, caller.project_id, num_bytes)
    part_id = new_id("part_")
    key = keys.upload_part(caller.project_id, upload_id, part_id)
    stored = orphans.put(services.database, services.storage, key, chunks_of(content))
    with services.database.transaction() as session:
        # Again, because others wrote meanwhile.
        service.check_part(session, caller.project_id, upload_id, stored.bytes, lock=True)
        quotas.admit_bytes(session, caller.project_id, stored.bytes)
        part = service.add_part(session, upload_id, part_id, key, stored)
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
    upload, file = _complete(services, caller.project_id, upload_id, part_ids, md5, idempotency_key)
    if file is None:
        return UploadObject.of(upload)
    with services.database.read() as session:
        imported = files.import_of(session, file)
    files.notify(services.notifier, file, imported)
    return UploadObject.of(upload, file, imported)


def cancel_upload(services: Services, caller: Caller, upload_id: str) -> UploadObject:
    with services.database.transaction() as session:
        return UploadObject.of(service.cancel(session, caller.project_id, upload_id))


def _complete(
    services: Services,
    project_id: str,
    upload_id: str,
    part_ids: list[str],
    md5: str | None,
    idempotency_key: str | None,
) -> tuple[Upload, File | None]:
    with services.database.transaction() as session:
        # Locked, or its parts may go while we look for them.
        upload = service.get_locked(session, project_id, upload_id)
        if service.is_completed_with(upload, part_ids):
            return upload, service.file_of(session, upload)
        parts = service.ordered_parts(session, upload, part_ids)
    table = service.table_of(services.storage, upload, parts)
    if table is not None:
        with services.database.read() as session:
            files.admit_import(session, project_id, idempotency_key)
    file_id, key = files.new_key(project_id)
    chunks = service.join_parts(services.storage, parts, md5)
    stored = orphans.put(services.database, services.storage, key, chunks)

    def complete() -> tuple[Upload, File | None]:
        with services.database.transaction() as session:
            upload = service.get_locked(session, project_id, upload_id)
            if service.is_completed_with(
                upload, part_ids
            ):  # by the same call, on another connection
                return upload, service.file_of(session, upload)
            file = service.complete(
                session,
                upload,
                part_ids,
                file_id,
                stored,
                idempotency_key=idempotency_key,
                table=table,
            )
            return upload, file

    return files.add_once(complete)
