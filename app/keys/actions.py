"""What callers do with keys; each function is one unit of work."""

from datetime import UTC, datetime

from sqlalchemy.orm import Session

from app.auth.caller import Caller
from app.base.database import now
from app.base.errors import IllegalState, InvalidRequest, NotFound
from app.http.pagination import Page, invalid_cursor
from app.keys import repository, service
from app.keys.schemas import KeyCreated, KeyDeleted, KeyObject, KeyRequest
from app.projects import service as projects
from app.services import Services


def create_key(services: Services, caller: Caller, request: KeyRequest) -> KeyCreated:
    """Make a key; the answer holds its secret, and nothing else ever will."""
    with services.database.transaction() as session:
        project = projects.for_new_key(session, caller, request.project_id or caller.project_id)
        key, secret = service.create_key(
            session, project.id, request.name, request.scope, _expiry(session, request)
        )
        session.refresh(key)
    return KeyCreated.of(key, secret=secret)


def list_keys(
    services: Services,
    caller: Caller,
    *,
    project_id: str | None = None,
    after: str | None = None,
    limit: int,
) -> Page[KeyObject]:
    """Return the newest first, without those that were revoked."""
    with services.database.read() as session:
        owner = caller.administered_project
        if project_id is not None:
            owner = projects.get(session, caller, project_id).id
        if after is not None and not repository.was_there(session, owner, after):
            raise invalid_cursor(after, "a key that you administer")
        keys = repository.newest_first(session, owner, after=after, limit=limit)
    return Page[KeyObject].of([KeyObject.of(key) for key in keys], limit)


def retrieve_key(services: Services, caller: Caller, key_id: str) -> KeyObject:
    with services.database.read() as session:
        key = repository.find(session, caller.administered_project, key_id)
    if key is None:
        raise _unknown(key_id)
    return KeyObject.of(key)


def revoke_key(services: Services, caller: Caller, key_id: str) -> KeyDeleted:
    """Revoke a key; nothing remembers keys between requests, so the next one finds it revoked."""
    if key_id == caller.key_id:
        raise IllegalState("A key cannot revoke itself; use another admin key.", code="key_in_use")
    with services.database.transaction() as session:
        if not repository.mark_revoked(session, caller.administered_project, key_id):
            raise _unknown(key_id)
    return KeyDeleted(id=key_id)


def _expiry(session: Session, request: KeyRequest) -> datetime | None:
    if request.expires_at is None:
        return None
    expires_at = datetime.fromtimestamp(request.expires_at, UTC)
    if expires_at <= now(session):
        raise InvalidRequest(
            "expires_at: this moment has passed; send a later one in seconds since 1970, or none.",
            param="expires_at",
        )
    return expires_at


def _unknown(key_id: str) -> NotFound:
    return NotFound(f"No such API key: {key_id}", param="key_id", code="api_key_not_found")
