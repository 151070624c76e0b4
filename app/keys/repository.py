from sqlalchemy import Select, select, tuple_, update
from sqlalchemy.orm import Session

from app.base.database import now_plus
from app.models import ApiKey


def find(session: Session, project_id: str | None, key_id: str) -> ApiKey | None:
    """Find a key; here and below a project of None restricts nothing."""
    return session.scalars(_select_unrevoked(project_id).where(ApiKey.id == key_id)).one_or_none()


def lock(session: Session, key_id: str) -> ApiKey:
    """Return the key and lock it until the transaction ends."""
    statement = select(ApiKey).where(ApiKey.id == key_id).with_for_update()
    return session.scalars(statement, execution_options={"populate_existing": True}).one()


def find_even_revoked(session: Session, project_id: str, key_id: str) -> ApiKey | None:
    mine = (ApiKey.project_id == project_id, ApiKey.id == key_id)
    return session.scalars(select(ApiKey).where(*mine)).one_or_none()


def name_of(session: Session, project_id: str, key_id: str) -> str | None:
    """Return the name of a key of the project, revoked or not."""
    mine = (ApiKey.project_id == project_id, ApiKey.id == key_id)
    return session.scalar(select(ApiKey.name).where(*mine))


def was_there(session: Session, project_id: str | None, key_id: str) -> bool:
    """Return True if the key exists or existed, revoked or not: a client that revokes keys while
    paging has only a revoked key as its cursor.
    """
    mine = () if project_id is None else (ApiKey.project_id == project_id,)
    return session.scalar(select(ApiKey.id).where(ApiKey.id == key_id, *mine)) is not None


def newest_first(
    session: Session, project_id: str | None, *, after: str | None, limit: int
) -> list[ApiKey]:
    place = tuple_(ApiKey.created_at, ApiKey.id)
    statement = (
        _select_unrevoked(project_id)
        .order_by(ApiKey.created_at.desc(), ApiKey.id.desc())
        .limit(limit + 1)
    )
    if after:
        cursor = select(ApiKey.created_at, ApiKey.id).where(ApiKey.id == after)
        statement = statement.where(place < cursor.scalar_subquery())
    return list(session.scalars(statement))


def mark_revoked(session: Session, project_id: str | None, key_id: str) -> bool:
    mine = () if project_id is None else (ApiKey.project_id == project_id,)
    statement = (
        update(ApiKey)
        .where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None), ApiKey.sign_in_id.is_(None), *mine)
        .values(revoked_at=now_plus())
    )
    return session.scalar(statement.returning(ApiKey.id)) is not None


def holds_digest(session: Session, digest: str) -> bool:
    statement = select(ApiKey.id).where(ApiKey.secret_sha256 == digest)
    return session.scalar(statement) is not None


def any_exists(session: Session) -> bool:
    return session.scalar(select(ApiKey.id).limit(1)) is not None


def _select_unrevoked(project_id: str | None) -> Select[ApiKey]:
    """Select the keys that have a secret, not those of sign-ins."""
    statement = select(ApiKey).where(ApiKey.revoked_at.is_(None), ApiKey.sign_in_id.is_(None))
    if project_id is None:
        return statement
    return statement.where(ApiKey.project_id == project_id)
