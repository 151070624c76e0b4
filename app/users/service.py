"""Use cases of persons who sign in through the identity provider, and of the access that its groups
give; each function is one unit of work.
"""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.auth import audit
from app.auth.caller import RIGHTS, Caller
from app.auth.oidc.identity import Identity, SignInRefused
from app.base.errors import Forbidden, IllegalState, InvalidRequest, NotFound
from app.http.pagination import Page, check_cursor
from app.models import DEFAULT_PROJECT_ID, ApiKey, Scope, User
from app.models.user import USER_PREFIX
from app.projects import service as projects
from app.services import Services
from app.users import repository
from app.users.schemas import GrantDeleted, GrantObject, GrantRequest, UserDeleted, UserObject

REMOVED = "Your access to this service was removed. Its administrator can readmit you."


def sign_in(services: Services, identity: Identity) -> str | None:
    """Return a key of a new sign-in, which has one for each project that the person's groups open;
    None if they open none. Keys of the person that these groups no longer cover are revoked. Raises
    `SignInRefused` for a removed person.
    """
    with services.database.transaction() as session:
        access = repository.access_of(session, identity.groups)
        if not access and not repository.is_known(session, identity):
            return None  # Providers for everybody would fill the table with strangers.
        user = repository.note_sign_in(session, identity)
        if user.removed_at is not None:
            raise SignInRefused(REMOVED)
        _revoke_beyond(session, user, access)
        repository.forget_old_sign_ins(session)
        return repository.add_sign_in(session, user, access, services.settings.oidc_session)


def _revoke_beyond(session: Session, user: User, access: dict[str, Scope]) -> None:
    """Revoke what the person's groups no longer give. Who administers the installation may make
    keys of every project.
    """
    administers_installation = access.get(DEFAULT_PROJECT_ID) is Scope.ADMIN
    beyond = [
        key
        for key in repository.valid_keys(session, user.id)
        if not (administers_installation and key.sign_in_id is None)
        and (
            key.project_id not in access
            or RIGHTS.index(Scope(key.scope)) > RIGHTS.index(access[key.project_id])
        )
    ]
    repository.revoke_keys(session, [key.id for key in beyond])
    for key in beyond:
        if key.sign_in_id is None:
            audit.record(session, _owner(key), "api_key.deleted", key.id)


def _owner(key: ApiKey) -> Caller:
    return Caller(key.id, key.project_id, Scope(key.scope), None, False, user_id=key.user_id)


def list_users(
    services: Services, caller: Caller, *, after: str | None = None, limit: int
) -> Page[UserObject]:
    """Return the persons who signed in, newest first, removed ones too."""
    caller.must_administer_installation()
    check_cursor(after, USER_PREFIX, "a user")
    with services.database.read() as session:
        users = repository.newest_first(session, after=after, limit=limit)
    return Page[UserObject].of([UserObject.of(user) for user in users], limit)


def retrieve_user(services: Services, caller: Caller, user_id: str) -> UserObject:
    caller.must_administer_installation()
    with services.database.read() as session:
        user = repository.find(session, user_id)
    if user is None:
        raise _unknown(user_id)
    return UserObject.of(user)


def remove_user(services: Services, caller: Caller, user_id: str) -> UserDeleted:
    """End a person's sessions and revoke their keys, and admit them no more. Idempotent."""
    caller.must_administer_installation()
    if user_id == caller.user_id:
        raise IllegalState(
            "You cannot remove yourself; another administrator can.", code="user_in_use"
        )
    with services.database.transaction() as session:
        if remove(session, user_id):
            audit.record(session, caller, "user.deleted", user_id)
    return UserDeleted(id=user_id)


def remove(session: Session, user_id: str) -> bool:
    """Remove a person; return False if they were removed before. Raises `NotFound`."""
    if repository.find(session, user_id) is None:
        raise _unknown(user_id)
    has_changed = repository.set_removed(session, user_id, is_removed=True)
    repository.revoke_keys(session, [key.id for key in repository.valid_keys(session, user_id)])
    return has_changed


def find_by_name(session: Session, name: str) -> User:
    """Return the person with an id, subject or e-mail address. Raises `NotFound`."""
    users = repository.find_named(session, name)
    if len(users) > 1:
        ids = ", ".join(user.id for user in users)
        raise InvalidRequest(f"Several persons are named '{name}': {ids}. Give one of these ids.")
    if not users:
        raise _unknown(name)
    return users[0]


def list_all(session: Session, limit: int) -> list[User]:
    return repository.newest_first(session, after=None, limit=limit)


def readmit_user(services: Services, caller: Caller, user_id: str) -> UserObject:
    """Let a removed person sign in again, with new keys. Idempotent."""
    caller.must_administer_installation()
    with services.database.transaction() as session:
        if readmit(session, user_id):
            audit.record(session, caller, "user.added", user_id)
        session.expire_all()
        return UserObject.of(session.get_one(User, user_id))


def readmit(session: Session, user_id: str) -> bool:
    """Readmit a person; return False if they were not removed. Raises `NotFound`."""
    if repository.find(session, user_id) is None:
        raise _unknown(user_id)
    return repository.set_removed(session, user_id, is_removed=False)


def lock_owner(session: Session, caller: Caller) -> None:
    """Keep the person that acts from being removed until the transaction ends, so that a new key
    of theirs is revoked with the others. Raises `Forbidden` if they are removed.
    """
    if caller.user_id is not None and not repository.lock_active(session, caller.user_id):
        raise Forbidden(REMOVED)


def list_grants(services: Services, caller: Caller) -> Page[GrantObject]:
    caller.must_administer_installation()
    with services.database.read() as session:
        grants = repository.list_grants(session)
    return Page[GrantObject].of([GrantObject.of(grant) for grant in grants])


def put_grant(services: Services, caller: Caller, request: GrantRequest) -> GrantObject:
    """Give the members of a group a scope in a project, from their next sign-in on."""
    caller.must_administer_installation()
    with services.database.transaction() as session:
        project = projects.for_new_key(session, caller, request.project_id)
        grant = repository.put_grant(session, request.group, project.id, Scope(request.scope))
        _refuse_too_many(repository.list_grants(session))
        audit.record(session, caller, "group_grant.updated", grant.id)
        return GrantObject.of(grant)


def _refuse_too_many(grants: Sequence[object]) -> None:
    if len(grants) > repository.MAX_GRANTS:
        raise IllegalState(
            f"There are {repository.MAX_GRANTS:,} grants; delete some first.",
            code="too_many_grants",
        )


def delete_grant(services: Services, caller: Caller, grant_id: str) -> GrantDeleted:
    """Delete a grant; sign-ins that it gave end within `FALQON_OIDC_SESSION`."""
    caller.must_administer_installation()
    with services.database.transaction() as session:
        if not repository.delete_grant(session, grant_id):
            raise NotFound(f"No such grant: {grant_id}", param="grant_id")
        audit.record(session, caller, "group_grant.deleted", grant_id)
    return GrantDeleted(id=grant_id)


def _unknown(user_id: str) -> NotFound:
    return NotFound(f"No such user: {user_id}", param="user_id", code="user_not_found")
