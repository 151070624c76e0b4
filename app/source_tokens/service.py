"""Use cases of a project's tokens for private sources."""

from app.auth import audit
from app.auth.caller import Caller
from app.base.errors import NotFound
from app.http.pagination import Page
from app.services import Services
from app.source_tokens import repository
from app.source_tokens.schemas import (
    HubToken,
    Kind,
    S3Key,
    SourceTokenDeleted,
    SourceTokenObject,
)

MAX_TOKENS = 2  # one of each kind


def put_token(
    services: Services, caller: Caller, kind: Kind, request: HubToken | S3Key
) -> SourceTokenObject:
    with services.database.transaction() as session:
        token = repository.put(session, caller.project_id, kind, request.secret())
        audit.record(session, caller, "source_token.updated", token.id)
        return SourceTokenObject.of(token)


def list_tokens(services: Services, caller: Caller) -> Page[SourceTokenObject]:
    with services.database.read() as session:
        tokens = repository.list_of_project(session, caller.project_id)
    return Page[SourceTokenObject].of([SourceTokenObject.of(token) for token in tokens], MAX_TOKENS)


def delete_token(services: Services, caller: Caller, token_id: str) -> SourceTokenDeleted:
    with services.database.transaction() as session:
        if not repository.remove(session, caller.project_id, token_id):
            raise NotFound(f"No such source token: {token_id}", param="token_id")
        audit.record(session, caller, "source_token.deleted", token_id)
    return SourceTokenDeleted(id=token_id)
