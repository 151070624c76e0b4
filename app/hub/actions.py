"""What Hugging Face's libraries ask of models and files."""

from app.auth.caller import Caller
from app.hub import service
from app.hub.service import MAIN, Kind
from app.hub.tree import Repository
from app.services import Services


def open_repository(
    services: Services, caller: Caller, kind: Kind, repo: str, revision: str = MAIN
) -> Repository:
    """Return a revision of a model or of a file. Raises `NotFound` with a code of the protocol."""
    with services.database.read() as session:
        return service.open_repository(session, caller.project_id, kind, repo, revision)


def list_revisions(
    services: Services, caller: Caller, kind: Kind, repo: str
) -> dict[str, Repository]:
    with services.database.read() as session:
        return service.revisions(session, caller.project_id, kind, repo)
