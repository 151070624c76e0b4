from typing import Annotated

from fastapi import APIRouter, Form

from app.http.dependencies import MULTIPART_OVERHEAD_BYTES, TOUCHES_STORAGE, ApiRoute, App, Writer
from app.models import FileStatus
from app.settings import Settings
from app.uploads import service
from app.uploads.schemas import CompleteRequest, PartForm, PartObject, UploadObject, UploadRequest


class PartRoute(ApiRoute):
    body_param = "data"

    def max_body_bytes(self, settings: Settings) -> int:
        return service.MAX_PART_BYTES + MULTIPART_OVERHEAD_BYTES


router = APIRouter(prefix="/v1/uploads", tags=["uploads"], route_class=ApiRoute)
parts = APIRouter(route_class=PartRoute)


@router.post("")
def create_upload(app: App, caller: Writer, body: UploadRequest) -> UploadObject:
    """Announce a file; send its parts within the hour, then complete it."""
    lifetime = body.expires_after.seconds if body.expires_after else None
    with app.database.transaction() as session:
        upload = service.create(
            session,
            caller.project_id,
            app.settings,
            filename=body.filename,
            purpose=body.purpose,
            num_bytes=body.bytes,
            lifetime_seconds=lifetime,
        )
    return UploadObject.of(upload)


@parts.post("/{upload_id}/parts", dependencies=TOUCHES_STORAGE)
def create_part(app: App, caller: Writer, upload_id: str, form: Annotated[PartForm, Form(media_type="multipart/form-data")]) -> PartObject:
    """At most 64 MiB; several may be sent at once, and in any order."""
    content = form.data
    return PartObject.of(service.add_part(app.database, app.storage, caller.project_id, upload_id, content.file, content.size or 0))


@router.post("/{upload_id}/complete", dependencies=TOUCHES_STORAGE)
def complete_upload(app: App, caller: Writer, upload_id: str, body: CompleteRequest) -> UploadObject:
    """Make the file out of the parts, in this order. Saying it twice is the same as once."""
    upload, file = service.complete(app.database, app.storage, caller.project_id, upload_id, body.part_ids, body.md5)
    if file is not None and file.status == FileStatus.UPLOADED:
        app.notifier.notify_file(file.id)
    return UploadObject.of(upload, file)


@router.post("/{upload_id}/cancel")
def cancel_upload(app: App, caller: Writer, upload_id: str) -> UploadObject:
    """The parts go; no more can be sent. Saying it twice is the same as once."""
    with app.database.transaction() as session:
        return UploadObject.of(service.cancel(session, caller.project_id, upload_id))


router.include_router(parts)
