from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints

from app.http.pagination import Object, unix_seconds
from app.models import GroupGrant, User
from app.models.strict_model import StrictModel

GroupName = Annotated[
    str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")
]
# Less than reading shows nothing of the dashboard.
GrantedScope = Literal["read", "write", "admin"]


class GrantRequest(StrictModel):
    group: Annotated[GroupName, Field(description="as the identity provider names it")]
    project_id: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    scope: Annotated[GrantedScope, Field(description="each includes those before it")]


class GrantObject(Object):
    object: Literal["group_grant"] = "group_grant"
    created_at: int
    group: str
    project_id: str
    scope: GrantedScope

    @classmethod
    def of(cls, grant: GroupGrant) -> Self:
        return cls(
            id=grant.id,
            created_at=int(grant.created_at.timestamp()),
            group=grant.group_name,
            project_id=grant.project_id,
            scope=grant.scope,
        )


class GrantDeleted(Object):
    object: Literal["group_grant"] = "group_grant"
    deleted: bool = True


class UserObject(Object):
    """Person as in OpenAI's API, with the name that the identity provider has for them."""

    object: Literal["organization.user"] = "organization.user"
    added_at: int
    email: str | None
    issuer: str
    subject: Annotated[str, Field(description="id of the person at the issuer")]
    signed_in_at: int
    status: Literal["active", "removed"]
    removed_at: int | None

    @classmethod
    def of(cls, user: User) -> Self:
        return cls(
            id=user.id,
            added_at=int(user.created_at.timestamp()),
            email=user.email,
            issuer=user.issuer,
            subject=user.subject,
            signed_in_at=int(user.signed_in_at.timestamp()),
            status="active" if user.removed_at is None else "removed",
            removed_at=unix_seconds(user.removed_at),
        )


class UserDeleted(Object):
    object: Literal["organization.user.deleted"] = "organization.user.deleted"
    deleted: bool = True
