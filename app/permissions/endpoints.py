from typing import Annotated

from fastapi import APIRouter, Query

from app.http.dependencies import After, Reader, ServicesDep, Writer
from app.http.pagination import Page
from app.http.routes import ApiRoute
from app.permissions import service
from app.permissions.schemas import Order, PermissionDeleted, PermissionObject, PermissionRequest

router = APIRouter(
    prefix="/v1/fine_tuning/checkpoints/{checkpoint:path}/permissions",
    tags=["fine-tuning"],
    route_class=ApiRoute,
)


@router.post("")
def create_permissions(
    services: ServicesDep, caller: Writer, checkpoint: str, body: PermissionRequest
) -> Page[PermissionObject]:
    """Let other projects start jobs from a checkpoint."""
    return service.create_permissions(services, caller, checkpoint, body)


@router.get("")
def list_permissions(
    services: ServicesDep,
    caller: Reader,
    checkpoint: str,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
    order: Order = "descending",
    project_id: Annotated[str | None, Query(max_length=256)] = None,
) -> Page[PermissionObject]:
    return service.list_permissions(
        services,
        caller,
        checkpoint,
        project_id=project_id,
        order=order,
        after=after,
        limit=limit,
    )


@router.delete("/{permission_id}")
def delete_permission(
    services: ServicesDep, caller: Writer, checkpoint: str, permission_id: str
) -> PermissionDeleted:
    return service.delete_permission(services, caller, checkpoint, permission_id)
