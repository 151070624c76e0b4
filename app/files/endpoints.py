from typing import Annotated

from fastapi import APIRouter, Form, Query, Request, Response

from app.errors import TooLarge
from app.files import repository, service
from app.files.schemas import FileDeleted, FileForm, FileObject
from app.garbage import orphans
from app.http import downloads
from app.http.dependencies import TOUCHES_STORAGE, After, App, Reader, UploadRoute, Writer
from app.http.downloads import Content
from app.http.pagination import Page, check_cursor
from app.models import FileStatus
from app.projects import quotas
from app.storage.storage import CHUNK_BYTES

MAX_PAGE = 10_000

router = APIRouter(prefix="/v1/files", tags=["files"], route_class=UploadRoute)


@router.post("", dependencies=TOUCHES_STORAGE)
def create_file(app: App, caller: Writer, form: Annotated[FileForm, Form(media_type="multipart/form-data")]) -> FileObject:
    """Files of purpose `fine-tune` are then checked, see `status`; the others are only kept."""
    size = form.file.size or 0
    if size > app.settings.max_file_bytes:
        limit = app.settings.max_file_bytes
        raise TooLarge(f"file: {size} bytes; the limit for one file is {limit}. Larger ones arrive in parts: /v1/uploads.", param="file")
    filename = service.checked_name(form.file.filename, "file")
    file_id, key = service.new_key(caller.project_id)
    content = form.file.file
    with app.database.transaction() as session:
        quotas.admit_bytes(session, caller.project_id, size)
    stored = orphans.put(app.database, app.storage, key, iter(lambda: content.read(CHUNK_BYTES), b""))
    with app.database.transaction() as session:
        quotas.admit_bytes(session, caller.project_id, stored.bytes)  # again: others wrote meanwhile
        file = service.add(
            session, caller.project_id, file_id, stored, filename=filename, purpose=form.purpose, lifetime_seconds=form.seconds
        )
    if file.status == FileStatus.UPLOADED:
        app.notifier.notify_file(file.id)
    return FileObject.of(file)


@router.get("")
def list_files(
    app: App,
    caller: Reader,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = MAX_PAGE,
    order: repository.Order = "desc",
    purpose: str | None = None,
) -> Page[FileObject]:
    check_cursor(after, "file-", "a file")
    with app.database.read() as session:
        files = repository.newest_first(session, caller.project_id, after=after, limit=limit, order=order, purpose=purpose)
    return Page[FileObject].of([FileObject.of(file) for file in files], limit)


@router.get("/{file_id}")
def retrieve_file(app: App, caller: Reader, file_id: str) -> FileObject:
    with app.database.read() as session:
        return FileObject.of(service.get(session, caller.project_id, file_id))


@router.delete("/{file_id}")
def delete_file(app: App, caller: Writer, file_id: str) -> FileDeleted:
    with app.database.transaction() as session:
        service.delete(session, caller.project_id, file_id)
    return FileDeleted(id=file_id)


@router.head("/{file_id}/content", include_in_schema=False)
@router.get(
    "/{file_id}/content",
    response_class=Response,
    responses=downloads.RESPONSES,
    dependencies=TOUCHES_STORAGE,
)
def retrieve_content(app: App, caller: Reader, request: Request, file_id: str) -> Response:
    with app.database.read() as session:
        file = service.get(session, caller.project_id, file_id)
    content = Content(file.storage_key, file.bytes, file.sha256, file.filename)
    return downloads.send(request, app.storage, content, redirects=app.settings.download_redirects)
