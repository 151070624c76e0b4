from collections.abc import Sequence
from datetime import UTC, datetime
from hmac import compare_digest

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.auth import secrets
from app.auth.caller import Caller
from app.database import Database, now
from app.errors import IllegalState, InvalidApiKey, InvalidRequest, NotFound
from app.http.pagination import invalid_cursor
from app.ids import new_id
from app.keys import repository
from app.keys.repository import Found
from app.keys.schemas import KeyRequest
from app.models import DEFAULT_PROJECT_ID, ApiKey, Project, Scope
from app.projects import service as projects
from app.settings import Settings

MIN_ADMIN_KEY_LENGTH = 20
MIN_ADMIN_KEY_VARIETY = 10  # "changeme" repeated has 7


class WeakAdminKey(ValueError):
    pass


def create_key(session: Session, project_id: str, name: str, scope: Scope, expires_at: datetime | None = None) -> tuple[ApiKey, str]:
    """The secret is returned here and never again."""
    public, secret = secrets.generate()
    key = ApiKey(
        id=f"key_{public}", project_id=project_id, name=name, scope=scope, secret_sha256=secrets.digest(secret), expires_at=expires_at
    )
    session.add(key)
    session.flush()
    return key, secret


def create(session: Session, caller: Caller, request: KeyRequest) -> tuple[ApiKey, str]:
    project = projects.for_new_key(session, caller, request.project_id or caller.project_id)
    expires_at = None if request.expires_at is None else datetime.fromtimestamp(request.expires_at, UTC)
    if expires_at is not None and expires_at <= now(session):
        raise InvalidRequest("expires_at: this moment has passed; send a later one in seconds since 1970, or none.", param="expires_at")
    return create_key(session, project.id, request.name, request.scope, expires_at)


def get(session: Session, caller: Caller, key_id: str) -> ApiKey:
    key = repository.find(session, caller.administered_project, key_id)
    if key is None:
        raise _unknown(key_id)
    return key


def page(session: Session, project_id: str | None, *, after: str | None, limit: int) -> list[ApiKey]:
    if after is not None and not repository.was_there(session, project_id, after):
        raise invalid_cursor(after, "a key that you administer")
    return repository.newest_first(session, project_id, after=after, limit=limit)


def revoke(session: Session, caller: Caller, key_id: str) -> None:
    """Nothing remembers keys between requests, so the next request finds it revoked."""
    if key_id == caller.key_id:
        raise IllegalState("A key cannot revoke itself; use another admin key.", code="key_in_use")
    if not repository.mark_revoked(session, caller.administered_project, key_id):
        raise _unknown(key_id)


def authenticate(session: Session, secret: str) -> Caller:
    digest = secrets.digest(secret)
    found = repository.by_digest(session, digest) if secrets.may_be_a_key(secret) else None
    if found is None or not compare_digest(found.key.secret_sha256, digest):
        raise InvalidApiKey("Incorrect API key provided.")
    refusal = _refusal(found)
    if refusal is not None:
        raise refusal
    return _caller(found)


def note_use(session: Session, caller: Caller) -> None:
    repository.note_use(session, caller.key_id)


def still_valid(session: Session, key_id: str) -> Caller | None:
    found = repository.by_id(session, key_id)
    return _caller(found) if found and _refusal(found) is None else None


def refused(session: Session, key_ids: Sequence[str]) -> set[str]:
    """Those that open nothing any more."""
    return set(key_ids) - {found.key.id for found in repository.by_ids(session, key_ids) if _refusal(found) is None}


def ensure_admin_key(database: Database, settings: Settings) -> str | None:
    """The default project and a key to begin with; a generated secret is returned, to be shown once."""
    try:
        return _ensure_admin_key(database, settings)
    except IntegrityError:  # another process was quicker
        return _ensure_admin_key(database, settings)


def _ensure_admin_key(database: Database, settings: Settings) -> str | None:
    chosen = settings.admin_key.get_secret_value() if settings.admin_key else ""
    if chosen and len(chosen) < MIN_ADMIN_KEY_LENGTH:
        raise WeakAdminKey(f"FALQON_ADMIN_KEY is shorter than {MIN_ADMIN_KEY_LENGTH} characters")
    if chosen and len(set(chosen)) < MIN_ADMIN_KEY_VARIETY:
        raise WeakAdminKey(f"FALQON_ADMIN_KEY can be guessed: it has fewer than {MIN_ADMIN_KEY_VARIETY} different characters")
    with database.transaction() as session:
        if session.get(Project, DEFAULT_PROJECT_ID) is None:
            session.add(Project(id=DEFAULT_PROJECT_ID, name="default"))
            session.flush()
        if not chosen:
            return None if repository.any_exists(session) else create_key(session, DEFAULT_PROJECT_ID, "first key", Scope.ADMIN)[1]
        digest = secrets.digest(chosen)
        if repository.by_digest(session, digest) is None:
            session.add(
                ApiKey(id=new_id("key_"), project_id=DEFAULT_PROJECT_ID, name="FALQON_ADMIN_KEY", scope=Scope.ADMIN, secret_sha256=digest)
            )
        return None


def _refusal(found: Found) -> InvalidApiKey | None:
    if found.key.revoked_at is not None:
        return InvalidApiKey("Incorrect API key provided.")
    if found.is_expired:
        return InvalidApiKey(f"This API key expired at {found.key.expires_at:%Y-%m-%d %H:%M:%S} UTC.", code="expired_api_key")
    if found.project.archived_at is not None:
        return InvalidApiKey(f"The project '{found.project.id}' of this API key is archived.", code="project_archived")
    return None


def _caller(found: Found) -> Caller:
    return Caller(found.key.id, found.key.project_id, Scope(found.key.scope), found.project.requests_per_minute, found.use_is_due)


def _unknown(key_id: str) -> NotFound:
    return NotFound(f"No such API key: {key_id}", param="key_id", code="api_key_not_found")
