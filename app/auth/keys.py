"""Authentication of API keys: the caller of a key, and checks that it is still valid."""

from collections.abc import Sequence
from hmac import compare_digest
from typing import NamedTuple

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from app.auth import secrets
from app.auth.caller import Caller
from app.base.database import UNSYNCED, now_plus
from app.base.errors import InvalidApiKey
from app.models import ApiKey, Project, Scope

USE_IS_NOTED_EVERY_SECONDS = 60.0


class KeyState(NamedTuple):
    key: ApiKey
    project: Project
    is_expired: bool
    use_is_due: bool

    @property
    def caller(self) -> Caller:
        return Caller(
            self.key.id,
            self.key.project_id,
            Scope(self.key.scope),
            self.project.requests_per_minute,
            self.use_is_due,
            self.project.name,
            self.key.user_id,
            self.project.answer_storage is not None,
        )

    @property
    def refusal(self) -> InvalidApiKey | None:
        if self.key.revoked_at is not None:
            return InvalidApiKey("Incorrect API key provided.")
        if self.is_expired:
            return InvalidApiKey(
                f"This API key expired at {self.key.expires_at:%Y-%m-%d %H:%M:%S} UTC.",
                code="expired_api_key",
            )
        if self.project.archived_at is not None:
            return InvalidApiKey(
                f"The project '{self.project.id}' of this API key is archived.",
                code="project_archived",
            )
        return None


def check_secret(session: Session, secret: str) -> Caller:
    """Return the caller that the secret identifies; raise `InvalidApiKey` if it is not valid."""
    digest = secrets.digest(secret)
    state = None
    if secrets.may_be_a_key(secret):
        state = _find(session, ApiKey.secret_sha256 == digest)
    if state is None or not compare_digest(state.key.secret_sha256, digest):
        raise InvalidApiKey("Incorrect API key provided.")
    if state.refusal is not None:
        raise state.refusal
    return state.caller


def find_caller(session: Session, key_id: str) -> Caller | None:
    """Return the caller of a key that was checked before; None if the key is no longer valid."""
    state = _find(session, ApiKey.id == key_id)
    if state and state.refusal is None:
        return state.caller
    return None


def find_refused_keys(session: Session, key_ids: Sequence[str]) -> set[str]:
    """Return the keys that are no longer valid."""
    states = _read(session, ApiKey.id.in_(key_ids))
    return set(key_ids) - {state.key.id for state in states if state.refusal is None}


def sign_in_keys(session: Session, key_id: str) -> list[Caller]:
    """Return the callers of the valid keys that are of the same sign-in as this one, ordered by
    their projects' names; none if it is of none.
    """
    sign_in = select(ApiKey.sign_in_id).where(ApiKey.id == key_id).scalar_subquery()
    states = _read(session, ApiKey.sign_in_id == sign_in)
    valid = [state.caller for state in states if state.refusal is None]
    return sorted(valid, key=lambda caller: (caller.project_name, caller.project_id))


def end_sign_in(session: Session, key_id: str) -> None:
    """Revoke the keys that are of the same sign-in as this one."""
    sign_in = select(ApiKey.sign_in_id).where(ApiKey.id == key_id).scalar_subquery()
    statement = update(ApiKey).where(ApiKey.sign_in_id == sign_in, ApiKey.revoked_at.is_(None))
    session.execute(statement.values(revoked_at=now_plus()), execution_options=UNSYNCED)


def note_use(session: Session, key_id: str) -> None:
    session.execute(
        update(ApiKey).where(ApiKey.id == key_id, _use_is_due()).values(last_used_at=now_plus())
    )


def _find(session: Session, condition: ColumnElement[bool]) -> KeyState | None:
    return next(iter(_read(session, condition)), None)


def _read(session: Session, condition: ColumnElement[bool]) -> list[KeyState]:
    statement = (
        select(ApiKey, Project, ApiKey.expires_at <= now_plus(), _use_is_due())
        .join(Project, Project.id == ApiKey.project_id)
        .where(condition)
    )
    return [KeyState(*row) for row in session.execute(statement)]


def _use_is_due() -> ColumnElement[bool]:
    return or_(
        ApiKey.last_used_at.is_(None), ApiKey.last_used_at < now_plus(-USE_IS_NOTED_EVERY_SECONDS)
    )
