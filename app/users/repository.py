from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from app.auth import audit, secrets
from app.auth.caller import RIGHTS
from app.auth.oidc.identity import Identity
from app.base.database import UNSYNCED, insert_or, now_plus
from app.base.ids import new_id
from app.models import ApiKey, GroupGrant, Project, Scope, User
from app.models.user import USER_PREFIX

MAX_GRANTS = 1_000
MAX_KEY_NAME = 100
REREAD = {"populate_existing": True}  # execution option of an upsert


def find(session: Session, user_id: str) -> User | None:
    return session.get(User, user_id)


def find_named(session: Session, name: str) -> Sequence[User]:
    """Return the persons with this id, subject or e-mail address."""
    named = or_(User.id == name, User.subject == name, User.email == name)
    return session.scalars(select(User).where(named).order_by(User.id)).all()


def is_known(session: Session, identity: Identity) -> bool:
    same = (User.issuer == identity.issuer, User.subject == identity.subject)
    return session.scalar(select(User.id).where(*same)) is not None


def newest_first(session: Session, *, after: str | None, limit: int) -> list[User]:
    statement = select(User).order_by(User.id.desc()).limit(limit + 1)
    return list(session.scalars(statement.where(User.id < after) if after else statement))


def note_sign_in(session: Session, identity: Identity) -> User:
    """Add or update the person, and lock the row until the transaction ends."""
    values = {
        "id": new_id(USER_PREFIX),
        "issuer": identity.issuer,
        "subject": identity.subject,
        "email": identity.email,
        "created_at": now_plus(),
        "signed_in_at": now_plus(),
    }
    again = {"email": identity.email, "signed_in_at": now_plus()}
    statement = (
        insert_or(session, User)
        .values(values)
        .on_conflict_do_update(index_elements=["issuer", "subject"], set_=again)
        .returning(User)
    )
    user: User = session.scalars(statement, execution_options=REREAD).one()
    return user


def lock_active(session: Session, user_id: str) -> bool:
    """Lock the person's row until the transaction ends; return False for a removed one."""
    statement = select(User.removed_at).where(User.id == user_id).with_for_update()
    return session.execute(statement).one().removed_at is None


def set_removed(session: Session, user_id: str, *, is_removed: bool) -> bool:
    """Mark a person as removed, or no longer; return False if nothing changed."""
    was = User.removed_at.is_(None) if is_removed else User.removed_at.is_not(None)
    statement = (
        update(User)
        .where(User.id == user_id, was)
        .values(removed_at=now_plus() if is_removed else None)
        .returning(User.id)
    )
    return session.scalar(statement) is not None


def access_of(session: Session, groups: Collection[str]) -> dict[str, Scope]:
    """Return the highest scope that these groups have in each active project, by project name."""
    statement = (
        select(GroupGrant)
        .join(Project, Project.id == GroupGrant.project_id)
        .where(Project.archived_at.is_(None))
        .order_by(Project.name, Project.id)
    )
    access: dict[str, Scope] = {}
    for grant in session.scalars(statement):
        if grant.group_name in groups:
            scope = Scope(grant.scope)
            access[grant.project_id] = max(
                scope, access.get(grant.project_id, scope), key=RIGHTS.index
            )
    return access


def valid_keys(session: Session, user_id: str) -> Sequence[ApiKey]:
    """Return the person's keys that work, those of sign-ins among them."""
    mine = (ApiKey.user_id == user_id, ApiKey.revoked_at.is_(None))
    return session.scalars(select(ApiKey).where(*mine)).all()


def revoke_keys(session: Session, key_ids: Collection[str]) -> None:
    statement = update(ApiKey).where(ApiKey.id.in_(key_ids)).values(revoked_at=now_plus())
    session.execute(statement, execution_options=UNSYNCED)


def add_sign_in(
    session: Session, user: User, access: Mapping[str, Scope], lifetime: timedelta
) -> str | None:
    """Add a key for each project; nobody has their secrets. Return the id of one."""
    sign_in_id = new_id("signin_")
    keys = [
        ApiKey(
            id=new_id("key_"),
            project_id=project_id,
            user_id=user.id,
            sign_in_id=sign_in_id,
            name=(user.email or user.subject)[:MAX_KEY_NAME],
            scope=scope,
            secret_sha256=secrets.digest(secrets.generate()[1]),
            expires_at=now_plus(lifetime.total_seconds()),
        )
        for project_id, scope in access.items()
    ]
    session.add_all(keys)
    session.flush()
    return keys[0].id if keys else None


def forget_old_sign_ins(session: Session) -> None:
    """Delete the keys of sign-ins that no audit log names any more."""
    is_old = ApiKey.expires_at < now_plus(-audit.RETENTION.total_seconds())
    statement = delete(ApiKey).where(ApiKey.sign_in_id.is_not(None), is_old)
    session.execute(statement, execution_options=UNSYNCED)


def list_grants(session: Session) -> Sequence[GroupGrant]:
    return session.scalars(
        select(GroupGrant).order_by(GroupGrant.group_name, GroupGrant.project_id)
    ).all()


def put_grant(session: Session, group: str, project_id: str, scope: Scope) -> GroupGrant:
    values = {
        "id": new_id("grant_"),
        "group_name": group,
        "project_id": project_id,
        "scope": scope,
        "created_at": now_plus(),
    }
    statement = (
        insert_or(session, GroupGrant)
        .values(values)
        .on_conflict_do_update(index_elements=["group_name", "project_id"], set_={"scope": scope})
        .returning(GroupGrant)
    )
    grant: GroupGrant = session.scalars(statement, execution_options=REREAD).one()
    return grant


def delete_grant(session: Session, grant_id: str) -> bool:
    statement = delete(GroupGrant).where(GroupGrant.id == grant_id).returning(GroupGrant.id)
    return session.scalar(statement) is not None
