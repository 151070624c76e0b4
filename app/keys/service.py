from hmac import compare_digest
from typing import NamedTuple

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.database import Database
from app.errors import Forbidden, InvalidApiKey
from app.ids import new_id
from app.keys import repository, secrets
from app.models import DEFAULT_PROJECT_ID, ApiKey, Project, Scope
from app.settings import Settings

MIN_ADMIN_KEY_LENGTH = 20
RIGHTS = [Scope.READ, Scope.WRITE, Scope.ADMIN]  # each includes those before it


class Caller(NamedTuple):
    """Who asks, as their key says."""

    key_id: str
    project_id: str
    scope: Scope

    def must_have(self, scope: Scope) -> None:
        if RIGHTS.index(self.scope) < RIGHTS.index(scope):
            raise Forbidden(f"This needs an API key with the right '{scope}'; yours has '{self.scope}'.")


def create_key(session: Session, project_id: str, name: str, scope: Scope) -> tuple[ApiKey, str]:
    """The secret is returned here and never again."""
    public, secret = secrets.generate()
    key = ApiKey(id=f"key_{public}", project_id=project_id, name=name, scope=scope, secret_sha256=secrets.digest(secret))
    session.add(key)
    session.flush()
    return key, secret


def authenticate(session: Session, secret: str) -> Caller:
    digest = secrets.digest(secret)
    key = repository.by_digest(session, digest) if secrets.may_be_a_key(secret) else None
    if key is None or key.revoked_at is not None or not compare_digest(key.secret_sha256, digest):
        raise InvalidApiKey("Incorrect API key provided.")
    return _caller(key)


def still_valid(session: Session, key_id: str) -> Caller | None:
    key = repository.live(session, key_id)
    return _caller(key) if key else None


def ensure_admin_key(database: Database, settings: Settings) -> str | None:
    """The default project and a key to begin with; a generated secret is returned, to be shown once."""
    try:
        return _ensure_admin_key(database, settings)
    except IntegrityError:  # another process was quicker
        return _ensure_admin_key(database, settings)


def _ensure_admin_key(database: Database, settings: Settings) -> str | None:
    chosen = settings.admin_key.get_secret_value() if settings.admin_key else ""
    if chosen and len(chosen) < MIN_ADMIN_KEY_LENGTH:
        raise ValueError(f"FALQON_ADMIN_KEY is shorter than {MIN_ADMIN_KEY_LENGTH} characters")
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


def _caller(key: ApiKey) -> Caller:
    return Caller(key.id, key.project_id, Scope(key.scope))
