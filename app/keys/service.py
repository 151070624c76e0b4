from datetime import datetime

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.auth import secrets
from app.base.database import Database
from app.base.ids import new_id
from app.base.settings import Settings
from app.keys import repository
from app.models import DEFAULT_PROJECT_ID, ApiKey, Project, Scope

MIN_ADMIN_KEY_LENGTH = 20
MIN_ADMIN_KEY_VARIETY = 10  # "changeme" repeated has 7


class WeakAdminKey(ValueError):
    pass


def create_key(
    session: Session, project_id: str, name: str, scope: Scope, expires_at: datetime | None = None
) -> tuple[ApiKey, str]:
    """Make a key; its secret is returned here and never again."""
    public, secret = secrets.generate()
    key = ApiKey(
        id=f"key_{public}",
        project_id=project_id,
        name=name,
        scope=scope,
        secret_sha256=secrets.digest(secret),
        expires_at=expires_at,
    )
    session.add(key)
    session.flush()
    return key, secret


def name_of(session: Session, project_id: str, key_id: str) -> str | None:
    """Return what the key of a project is called, revoked or not."""
    return repository.name_of(session, project_id, key_id)


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
        if session.get(Project, DEFAULT_PROJECT_ID) is None:
            session.add(Project(id=DEFAULT_PROJECT_ID, name="default"))
            session.flush()
        if secret:
            _add_chosen(session, secret)
            return None
        if repository.any_exists(session):
            return None
        _, generated = create_key(session, DEFAULT_PROJECT_ID, "first key", Scope.ADMIN)
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
