from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field

from app.http.pagination import Object
from app.models import AuditLog, User


class AuditProject(BaseModel):
    id: str


class AuditUser(BaseModel):
    """Person whom the key belongs to."""

    id: str
    email: str | None
    subject: Annotated[str, Field(description="id of the person at the identity provider")]


class AuditKey(BaseModel):
    id: str
    type: Annotated[
        Literal["user", "service_account"], Field(description="user: the key belongs to a person")
    ]
    user: AuditUser | None


class AuditSession(BaseModel):
    id: str
    ip_address: str
    user: AuditUser | None


class AuditActor(BaseModel):
    """Actor as in OpenAI's audit log; a session of the dashboard belongs to its API key."""

    type: Literal["api_key", "session"]
    api_key: AuditKey
    session: AuditSession | None


class AuditLogObject(Object):
    object: Literal["organization.audit_log"] = "organization.audit_log"
    type: Annotated[str, Field(description="such as `job.created`")]
    effective_at: int
    project: AuditProject
    actor: AuditActor
    resource_id: Annotated[
        str | None, Field(description="the changed object, if it was a single one")
    ]
    request_id: Annotated[str, Field(description="id of the request in the log")]
    ip_address: str

    @classmethod
    def of(cls, row: AuditLog, owner: User | None) -> Self:
        user = owner and AuditUser(id=owner.id, email=owner.email, subject=owner.subject)
        session = row.session_id and AuditSession(
            id=row.session_id, ip_address=row.address, user=user
        )
        return cls(
            id=row.id,
            type=row.event_type,
            effective_at=int(row.created_at.timestamp()),
            project=AuditProject(id=row.project_id),
            actor=AuditActor(
                type="session" if session else "api_key",
                api_key=AuditKey(
                    id=row.key_id, type="user" if user else "service_account", user=user
                ),
                session=session or None,
            ),
            resource_id=row.resource_id,
            request_id=row.request_id,
            ip_address=row.address,
        )
