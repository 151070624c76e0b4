"""Use cases on the files of a model."""

from pathlib import PurePosixPath
from urllib.parse import quote

from sqlalchemy.orm import Session

from app.artifacts import archive, links, repository
from app.artifacts.links import Link, Links
from app.artifacts.schemas import ArtifactObject, LinkObject, LinkRequest, Manifest
from app.auth import keys
from app.auth.caller import Caller
from app.auth.server_secret import server_secret
from app.base.database import now
from app.base.errors import NotFound
from app.catalogue import service as catalogue
from app.catalogue.naming import UNSAFE_CHARACTERS
from app.http.downloads import Content, ContentStream
from app.http.pagination import Page
from app.models import Artifact
from app.services import Services


def list_artifacts(services: Services, caller: Caller, model_id: str) -> Page[ArtifactObject]:
    with services.database.read() as session:
        artifacts = list_of_model(session, caller.project_id, model_id)
    return Page[ArtifactObject].of([ArtifactObject.of(artifact) for artifact in artifacts])


def retrieve_manifest(services: Services, caller: Caller, model_id: str) -> Manifest:
    with services.database.read() as session:
        return Manifest.of(model_id, list_of_model(session, caller.project_id, model_id))


def retrieve_artifact(
    services: Services, caller: Caller, model_id: str, name: str, sha256: str | None = None
) -> Content:
    """Return the location of an artifact's bytes; with `sha256`, only if the hash matches."""
    with services.database.read() as session:
        artifact = get(session, caller.project_id, model_id, name, sha256)
        model = catalogue.get(session, caller.project_id, model_id)
    catalogue.note_use(services.database, model)
    return _content_of(artifact)


def retrieve_archive(services: Services, caller: Caller, model_id: str) -> ContentStream:
    """Return every file in one tar, which is produced while it is read."""
    with services.database.read() as session:
        artifacts = list_of_model(session, caller.project_id, model_id)
        model = catalogue.get(session, caller.project_id, model_id)
    catalogue.note_use(services.database, model)
    folder = UNSAFE_CHARACTERS.sub("-", model_id).strip(".-") or "model"
    return ContentStream(
        archive.stream(services.storage, folder, artifacts),
        archive.length(folder, artifacts),
        f"{folder}.tar",
        "application/x-tar",
    )


def create_link(
    services: Services, caller: Caller, model_id: str, request: LinkRequest, base_url: str
) -> LinkObject:
    """Make an address of one artifact, below that of the service."""
    with services.database.read() as session:
        artifact = get(session, caller.project_id, model_id, request.name)
        expires_at = int(now(session).timestamp()) + request.expires_in_seconds
    link = Link(caller.key_id, artifact.model_id, request.name, artifact.sha256, expires_at)
    token = Links(server_secret(services.settings)).token(link)
    filename = quote(PurePosixPath(request.name).name)
    return LinkObject(url=f"{base_url}links/{token}/{filename}", expires_at=expires_at)


def follow_link(services: Services, token: str) -> Content:
    """Return the location of the bytes that a link gives access to. Raises `NotFound`."""
    link = Links(server_secret(services.settings)).read(token)
    with services.database.read() as session:
        caller = keys.find_caller(session, link.key_id)
        if caller is None or link.expires_at <= now(session).timestamp():
            raise links.unknown()
        artifact = get(session, caller.project_id, link.model_id, link.name, link.sha256)
        model = catalogue.get(session, caller.project_id, link.model_id)
    catalogue.note_use(services.database, model)
    return _content_of(artifact)


def _content_of(artifact: Artifact) -> Content:
    filename = PurePosixPath(artifact.name).name
    return Content(artifact.storage_key, artifact.bytes, artifact.sha256, filename)


def list_of_model(session: Session, project_id: str, model_id: str) -> list[Artifact]:
    model = catalogue.get(session, project_id, model_id)
    return repository.list_of_model(session, model.id)


def get(
    session: Session, project_id: str, model_id: str, name: str, sha256: str | None = None
) -> Artifact:
    """Return an artifact; with `sha256`, only if its hash matches."""
    artifact = repository.find(session, catalogue.get(session, project_id, model_id).id, name)
    if artifact is None:
        raise NotFound(f"The model '{model_id}' has no artifact '{name}'.", param="name")
    if sha256 not in (None, artifact.sha256):
        raise NotFound(
            f"The artifact '{name}' of the model '{model_id}' has a different SHA-256.",
            param="sha256",
        )
    return artifact
