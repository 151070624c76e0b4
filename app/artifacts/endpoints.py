from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from app.artifacts import service
from app.artifacts.schemas import ArtifactObject, LinkObject, LinkRequest, Manifest
from app.http import downloads
from app.http.dependencies import TOUCHES_STORAGE, Reader, ServicesDep
from app.http.pagination import Page
from app.http.routes import ApiRoute
from app.http.storage_limit import touches_storage

ARCHIVE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}}
}

router = APIRouter(prefix="/v1/models/{model:path}", tags=["artifacts"], route_class=ApiRoute)
followed = APIRouter()


@router.get("/artifacts")
def list_artifacts(services: ServicesDep, caller: Reader, model: str) -> Page[ArtifactObject]:
    return service.list_artifacts(services, caller, model)


@router.get("/artifacts/manifest.json")
def retrieve_manifest(services: ServicesDep, caller: Reader, model: str) -> Manifest:
    return service.retrieve_manifest(services, caller, model)


@router.head("/artifacts/{name:path}", include_in_schema=False)
@router.get(
    "/artifacts/{name:path}",
    response_class=Response,
    responses=downloads.RESPONSES,
    dependencies=TOUCHES_STORAGE,
)
def download_artifact(
    services: ServicesDep,
    caller: Reader,
    request: Request,
    model: str,
    name: str,
    sha256: Annotated[
        str | None,
        Query(
            pattern="^[0-9a-f]{64}$",
            description="these bytes or an error: the response never changes",
        ),
    ] = None,
) -> Response:
    content = service.retrieve_artifact(services, caller, model, name, sha256)
    return downloads.send(
        request,
        services.storage,
        content,
        redirects=services.settings.download_redirects,
        immutable=sha256 is not None,
    )


@router.head("/archive", include_in_schema=False)
@router.get("/archive", response_class=Response, responses=ARCHIVE, dependencies=TOUCHES_STORAGE)
def download_archive(
    services: ServicesDep, caller: Reader, request: Request, model: str
) -> Response:
    """Download every file in one tar, produced during the download. It cannot be resumed; single
    files can.
    """
    return downloads.send_stream(request, service.retrieve_archive(services, caller, model))


@router.post("/links")
def create_link(
    services: ServicesDep, caller: Reader, request: Request, model: str, body: LinkRequest
) -> LinkObject:
    """Create an address of one artifact for tools that cannot send an API key."""
    return service.create_link(services, caller, model, body, str(request.base_url))


async def _all_links() -> str:
    return "links"  # who follows one has no key


@followed.head("/links/{token}/{filename}", include_in_schema=False)
@followed.get(
    "/links/{token}/{filename}",
    include_in_schema=False,
    response_class=Response,
    dependencies=touches_storage(_all_links),
)
def follow_link(services: ServicesDep, request: Request, token: str, filename: str) -> Response:
    """Follow a link. The file name at the end is a hint for download tools only."""
    content = service.follow_link(services, token)
    return downloads.send(
        request, services.storage, content, redirects=services.settings.download_redirects
    )
