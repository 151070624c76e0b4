from pathlib import PurePosixPath

from fastapi import APIRouter, Request, Response

from app import downloads
from app.artifacts import service
from app.artifacts.schemas import ArtifactObject, Manifest
from app.dependencies import ApiRoute, App, Reader
from app.pagination import Page

router = APIRouter(prefix="/v1/models/{model:path}/artifacts", tags=["artifacts"], route_class=ApiRoute)


@router.get("")
def list_artifacts(app: App, caller: Reader, model: str) -> Page[ArtifactObject]:
    with app.database.read() as session:
        return Page[ArtifactObject].of([ArtifactObject.of(artifact) for artifact in service.of_model(session, caller.project_id, model)])


@router.get("/manifest.json")
def retrieve_manifest(app: App, caller: Reader, model: str) -> Manifest:
    with app.database.read() as session:
        return Manifest.of(model, service.of_model(session, caller.project_id, model))


@router.head("/{name:path}", include_in_schema=False)
@router.get("/{name:path}", response_class=Response, responses=downloads.RESPONSES)
def download_artifact(app: App, caller: Reader, request: Request, model: str, name: str) -> Response:
    with app.database.read() as session:
        artifact = service.get(session, caller.project_id, model, name)
    filename = PurePosixPath(artifact.name).name
    return downloads.send(request, app.storage, artifact.storage_key, size=artifact.bytes, sha256=artifact.sha256, filename=filename)
