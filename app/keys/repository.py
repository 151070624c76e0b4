from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Select, or_, select, tuple_, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from app.database import now_plus
from app.models import ApiKey, Project

USE_IS_NOTED_EVERY_SECONDS = 60.0


class Found(NamedTuple):
    key: ApiKey
    project: Project
    is_expired: bool
    use_is_due: bool


def by_digest(session: Session, digest: str) -> Found | None:
    row = session.execute(_found().where(ApiKey.secret_sha256 == digest)).one_or_none()
    return Found(*row) if row else None


def by_id(session: Session, key_id: str) -> Found | None:
    row = session.execute(_found().where(ApiKey.id == key_id)).one_or_none()
    return Found(*row) if row else None


def by_ids(session: Session, key_ids: Sequence[str]) -> list[Found]:
    return [Found(*row) for row in session.execute(_found().where(ApiKey.id.in_(key_ids)))]


def find(session: Session, project_id: str | None, key_id: str) -> ApiKey | None:
    """Neither here nor below does a project of None restrict anything."""
    return session.scalars(_unrevoked(project_id).where(ApiKey.id == key_id)).one_or_none()


def was_there(session: Session, project_id: str | None, key_id: str) -> bool:
    """Revoked ones too: who revokes a page while reading on has nothing else to go on from."""
    mine = () if project_id is None else (ApiKey.project_id == project_id,)
    return session.scalar(select(ApiKey.id).where(ApiKey.id == key_id, *mine)) is not None


def newest_first(session: Session, project_id: str | None, *, after: str | None, limit: int) -> list[ApiKey]:
    place = tuple_(ApiKey.created_at, ApiKey.id)
    statement = _unrevoked(project_id).order_by(ApiKey.created_at.desc(), ApiKey.id.desc()).limit(limit + 1)
    if after:
        cursor = select(ApiKey.created_at, ApiKey.id).where(ApiKey.id == after)
        statement = statement.where(place < cursor.scalar_subquery())
    return list(session.scalars(statement))


def mark_revoked(session: Session, project_id: str | None, key_id: str) -> bool:
    mine = () if project_id is None else (ApiKey.project_id == project_id,)
    statement = update(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None), *mine).values(revoked_at=now_plus())
    return session.scalar(statement.returning(ApiKey.id)) is not None


def note_use(session: Session, key_id: str) -> None:
    session.execute(update(ApiKey).where(ApiKey.id == key_id, _use_is_due()).values(last_used_at=now_plus()))


def any_exists(session: Session) -> bool:
    return session.scalar(select(ApiKey.id).limit(1)) is not None


def _found() -> Select[ApiKey, Project, bool, bool]:
    return select(ApiKey, Project, ApiKey.expires_at <= now_plus(), _use_is_due()).join(Project, Project.id == ApiKey.project_id)


def _use_is_due() -> ColumnElement[bool]:
    return or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < now_plus(-USE_IS_NOTED_EVERY_SECONDS))


def _unrevoked(project_id: str | None) -> Select[ApiKey]:
    statement = select(ApiKey).where(ApiKey.revoked_at.is_(None))
    return statement if project_id is None else statement.where(ApiKey.project_id == project_id)
