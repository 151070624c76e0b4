from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import ApiKey


def by_digest(session: Session, digest: str) -> ApiKey | None:
    return session.scalars(select(ApiKey).where(ApiKey.secret_sha256 == digest)).one_or_none()


def live(session: Session, key_id: str) -> ApiKey | None:
    return session.scalars(select(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))).one_or_none()


def any_exists(session: Session) -> bool:
    return session.scalar(select(ApiKey.id).limit(1)) is not None
