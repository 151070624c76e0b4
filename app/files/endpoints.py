from typing import Annotated

from fastapi import APIRouter, Form, Query, Request, Response, UploadFile

from app import downloads
from app.dependencies import After, App, Reader, UploadRoute, Writer
from app.errors import InvalidRequest
from app.files import repository, service
from app.files.schemas import FileDeleted, FileObject
from app.pagination import Page

MAX_PAGE = 10_000

router = APIRouter(prefix="/v1/files", tags=["files"], route_class=UploadRoute)


@router.post("")
def create_file(
    app: App,
    caller: Writer,
    file: UploadFile,
    purpose: Annotated[str, Form()],
    expires_anchor: Annotated[str | None, Form(alias="expires_after[anchor]")] = None,
    expires_seconds: Annotated[str | None, Form(alias="expires_after[seconds]")] = None,
) -> FileObject:
    if expires_anchor is not None or expires_seconds is not None:
        raise InvalidRequest("expires_after: files do not expire here; delete them when done.", param="expires_after")
    upload = service.Upload(file.file, file.size or 0, file.filename)
    row = service.store(app.storage, app.settings, caller.project_id, upload, purpose)
    with app.database.transaction() as session:
        session.add(row)
        session.flush()
        session.refresh(row)
    app.bell.ring_file(row.id)
    return FileObject.of(row)


@router.get("")
def list_files(
    app: App,
    caller: Reader,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = MAX_PAGE,
    order: repository.Order = "desc",
    purpose: str | None = None,
) -> Page[FileObject]:
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
@router.get("/{file_id}/content", response_class=Response)
def retrieve_content(app: App, caller: Reader, request: Request, file_id: str) -> Response:
    with app.database.read() as session:
        file = service.get(session, caller.project_id, file_id)
    return downloads.send(request, app.storage, file.storage_key, size=file.bytes, sha256=file.sha256, filename=file.filename)
