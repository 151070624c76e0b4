from sqlalchemy.orm import Session

from app.artifacts import internal_repository, links, repository
from app.artifacts.links import Link
from app.auth import keys
from app.auth.caller import Caller
from app.base.database import now
from app.base.errors import NotFound
from app.catalogue import service as catalogue
from app.models import Artifact


def of_model(session: Session, project_id: str, model_id: str) -> list[Artifact]:
    model = catalogue.get(session, project_id, model_id)
    return internal_repository.of_model(session, model.id)


def get(
    session: Session, project_id: str, model_id: str, name: str, sha256: str | None = None
) -> Artifact:
    """Return an artifact; with `sha256`, only if its bytes are these."""
    artifact = repository.find(session, catalogue.get(session, project_id, model_id).id, name)
    if artifact is None:
        raise NotFound(f"The model '{model_id}' has no artifact '{name}'.", param="name")
    if sha256 not in (None, artifact.sha256):
        raise NotFound(
            f"The artifact '{name}' of the model '{model_id}' has other bytes than these.",
            param="sha256",
        )
    return artifact


def new_link(session: Session, caller: Caller, model_id: str, name: str, seconds: int) -> Link:
    artifact = get(session, caller.project_id, model_id, name)
    return Link(
        caller.key_id,
        artifact.model_id,
        name,
        artifact.sha256,
        int(now(session).timestamp()) + seconds,
    )


def follow(session: Session, link: Link) -> Artifact:
    """Return the artifact that a link opens now. Raises `NotFound`."""
    caller = keys.find_caller(session, link.key_id)
    if caller is None or link.expires_at <= now(session).timestamp():
        raise links.unknown()
    return get(session, caller.project_id, link.model_id, link.name, link.sha256)
