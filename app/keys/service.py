"""Use cases of API keys; each function is one unit of work."""

from datetime import UTC, datetime
from decimal import Decimal

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.auth import audit, secrets
from app.auth.caller import Caller
from app.base.database import Database, now
from app.base.errors import IllegalState, InvalidRequest, NotFound
from app.base.ids import new_id
from app.base.settings import Settings
from app.http.pagination import Page, invalid_cursor
from app.keys import repository
from app.keys.repository import find_even_revoked as find_even_revoked
from app.keys.repository import lock as lock
from app.keys.repository import name_of as name_of
from app.keys.schemas import KeyCreated, KeyDeleted, KeyObject, KeyRequest
from app.models import DEFAULT_PROJECT_ID, ApiKey, Project, Scope
from app.projects import service as projects
from app.services import Services
from app.users import service as users

MIN_ADMIN_KEY_LENGTH = 20
MIN_ADMIN_KEY_VARIETY = 10  # "changeme" repeated has 7


class WeakAdminKey(ValueError):
    pass


def create_key(services: Services, caller: Caller, request: KeyRequest) -> KeyCreated:
    """Create a key, which belongs to the person that the caller's belongs to; only this response
    holds its secret.
    """
    with services.database.transaction() as session:
        project = projects.for_new_key(session, caller, request.project_id or caller.project_id)
        if request.scope is Scope.METRICS and project.id != DEFAULT_PROJECT_ID:
            raise InvalidRequest(
                f"scope: a key of scope metrics belongs to the project '{DEFAULT_PROJECT_ID}'; it "
                "reads the metrics of the whole installation.",
                param="scope",
            )
        users.lock_owner(session, caller)
        key, secret = add_key(
            session,
            project.id,
            request.name,
            request.scope,
            _expiry(session, request),
            caller.user_id,
            daily_budget_usd=request.daily_budget_usd,
        )
        session.refresh(key)
        audit.record(session, caller, "api_key.created", key.id)
    return KeyCreated.of(key, secret=secret)


def list_keys(
    services: Services,
    caller: Caller,
    *,
    project_id: str | None = None,
    after: str | None = None,
    limit: int,
) -> Page[KeyObject]:
    """Return the newest first, without revoked ones."""
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
    """Revoke a key; keys are not cached between requests, so the next one sees it."""
    if key_id == caller.key_id:
        raise IllegalState("A key cannot revoke itself; use another admin key.", code="key_in_use")
    with services.database.transaction() as session:
        if not repository.mark_revoked(session, caller.administered_project, key_id):
            raise _unknown(key_id)
        audit.record(session, caller, "api_key.deleted", key_id)
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


def add_key(
    session: Session,
    project_id: str,
    name: str,
    scope: Scope,
    expires_at: datetime | None = None,
    user_id: str | None = None,
    *,
    daily_budget_usd: Decimal | None = None,
) -> tuple[ApiKey, str]:
    """Create a key; its secret is returned only here."""
    public, secret = secrets.generate()
    key = ApiKey(
        id=f"key_{public}",
        project_id=project_id,
        user_id=user_id,
        name=name,
        scope=scope,
        secret_sha256=secrets.digest(secret),
        expires_at=expires_at,
        daily_budget_usd=daily_budget_usd,
    )
    session.add(key)
    session.flush()
    return key, secret


def ensure_default_project(session: Session) -> None:
    if session.get(Project, DEFAULT_PROJECT_ID) is None:
        session.add(Project(id=DEFAULT_PROJECT_ID, name="default"))
        session.flush()


def ensure_admin_key(database: Database, settings: Settings) -> str | None:
    """Make the default project and a first key; return a generated secret, to be shown once."""
    try:
        return _ensure_admin_key(database, settings)
    except IntegrityError:  # another process was quicker
        return _ensure_admin_key(database, settings)


def _ensure_admin_key(database: Database, settings: Settings) -> str | None:
    secret = settings.admin_key.get_secret_value() if settings.admin_key else ""
    if secret:
        _refuse_weak(secret)
    with database.transaction() as session:
        ensure_default_project(session)
        if secret:
            _add_chosen(session, secret)
            return None
        if repository.any_exists(session):
            return None
        _, generated = add_key(session, DEFAULT_PROJECT_ID, "first key", Scope.ADMIN)
        return generated


def _refuse_weak(secret: str) -> None:
    if len(secret) < MIN_ADMIN_KEY_LENGTH:
        raise WeakAdminKey(f"FALQON_ADMIN_KEY is shorter than {MIN_ADMIN_KEY_LENGTH} characters")
    if len(set(secret)) < MIN_ADMIN_KEY_VARIETY:
        raise WeakAdminKey(
            "FALQON_ADMIN_KEY can be guessed: "
            f"it has fewer than {MIN_ADMIN_KEY_VARIETY} different characters"
        )


def _add_chosen(session: Session, secret: str) -> None:
    digest = secrets.digest(secret)
    if not repository.holds_digest(session, digest):
        session.add(
            ApiKey(
                id=new_id("key_"),
                project_id=DEFAULT_PROJECT_ID,
                name="FALQON_ADMIN_KEY",
                scope=Scope.ADMIN,
                secret_sha256=digest,
            )
        )
