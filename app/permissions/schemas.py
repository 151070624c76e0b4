from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints

from app.http.pagination import Object
from app.models import CheckpointPermission
from app.models.strict_model import StrictModel

MAX_PROJECTS = 100
Order = Literal["ascending", "descending"]
ProjectId = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00]*$")]


class PermissionRequest(StrictModel):
    project_ids: Annotated[list[ProjectId], Field(min_length=1, max_length=MAX_PROJECTS)]


class PermissionObject(Object):
    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    created_at: int
    project_id: str

    @classmethod
    def of(cls, permission: CheckpointPermission) -> Self:
        return cls(
            id=permission.id,
            created_at=int(permission.created_at.timestamp()),
            project_id=permission.project_id,
        )


class PermissionDeleted(Object):
    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    deleted: bool = True
