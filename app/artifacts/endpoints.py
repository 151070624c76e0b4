from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from starlette.responses import StreamingResponse

from app.artifacts import archive, service
from app.artifacts.links import Links
from app.artifacts.schemas import ArtifactObject, LinkObject, LinkRequest, Manifest
from app.auth.server_secret import server_secret
from app.catalogue.naming import UNSAFE
from app.http import downloads
from app.http.dependencies import TOUCHES_STORAGE, ApiRoute, App, Reader, Services
from app.http.downloads import Content
from app.http.pagination import Page
from app.http.storage_limit import read_in_threads
from app.models import Artifact

ARCHIVE: dict[int | str, dict[str, Any]] = {200: {"content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}}}

router = APIRouter(prefix="/v1/models/{model:path}", tags=["artifacts"], route_class=ApiRoute)
followed = APIRouter()


@router.get("/artifacts")
def list_artifacts(app: App, caller: Reader, model: str) -> Page[ArtifactObject]:
    with app.database.read() as session:
        return Page[ArtifactObject].of([ArtifactObject.of(artifact) for artifact in service.of_model(session, caller.project_id, model)])


@router.get("/artifacts/manifest.json")
def retrieve_manifest(app: App, caller: Reader, model: str) -> Manifest:
    with app.database.read() as session:
        return Manifest.of(model, service.of_model(session, caller.project_id, model))


@router.head("/artifacts/{name:path}", include_in_schema=False)
@router.get(
    "/artifacts/{name:path}",
    response_class=Response,
    responses=downloads.RESPONSES,
    dependencies=TOUCHES_STORAGE,
)
def download_artifact(
    app: App,
    caller: Reader,
    request: Request,
    model: str,
    name: str,
    sha256: Annotated[str | None, Query(pattern="^[0-9a-f]{64}$", description="these bytes or none: the answer never changes")] = None,
) -> Response:
    with app.database.read() as session:
        artifact = service.get(session, caller.project_id, model, name, sha256)
    return _send(app, request, artifact, immutable=sha256 is not None)


@router.head("/archive", include_in_schema=False)
@router.get("/archive", response_class=Response, responses=ARCHIVE, dependencies=TOUCHES_STORAGE)
def download_archive(app: App, caller: Reader, request: Request, model: str) -> Response:
    """Every file in one tar, made while it is sent. It cannot be taken up where it broke; single files can."""
    with app.database.read() as session:
        artifacts = service.of_model(session, caller.project_id, model)
    folder = UNSAFE.sub("-", model).strip(".-") or "model"
    headers = {
        "content-length": str(archive.length(folder, artifacts)),
        "content-disposition": downloads.disposition(f"{folder}.tar"),
        "cache-control": "private, no-cache",
    }
    chunks: Iterator[bytes] = iter(())
    if request.method != "HEAD":  # the first header, and the first bytes of that file
        chunks = downloads.begun(archive.stream(app.storage, folder, artifacts), 2)
    return StreamingResponse(read_in_threads(chunks), headers=headers, media_type="application/x-tar")


@router.post("/links")
def create_link(app: App, caller: Reader, request: Request, model: str, body: LinkRequest) -> LinkObject:
    """An address of one artifact for tools that cannot send an API key."""
    with app.database.read() as session:
        link = service.new_link(session, caller, model, body.name, body.expires_in_seconds)
    token = Links(server_secret(app.settings)).token(link)
    filename = quote(PurePosixPath(body.name).name)
    return LinkObject(url=str(request.url_for("follow_link", token=token, filename=filename)), expires_at=link.expires_at)


@followed.head("/links/{token}/{filename}", include_in_schema=False)
@followed.get(
    "/links/{token}/{filename}",
    include_in_schema=False,
    response_class=Response,
    dependencies=TOUCHES_STORAGE,
)
def follow_link(app: App, request: Request, token: str, filename: str) -> Response:
    """The name at the end only tells a tool what to call the file."""
    link = Links(server_secret(app.settings)).read(token)
    with app.database.read() as session:
        artifact = service.follow(session, link)
    return _send(app, request, artifact, immutable=False)


def _send(app: Services, request: Request, artifact: Artifact, *, immutable: bool) -> Response:
    content = Content(artifact.storage_key, artifact.bytes, artifact.sha256, PurePosixPath(artifact.name).name)
    return downloads.send(request, app.storage, content, redirects=app.settings.download_redirects, immutable=immutable)
