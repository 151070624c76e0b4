from typing import Annotated

from fastapi import APIRouter, Query

from app.http.dependencies import After, ApiRoute, App, Reader, Writer
from app.http.pagination import Page
from app.permissions import service
from app.permissions.repository import Order
from app.permissions.schemas import PermissionDeleted, PermissionObject, PermissionRequest

router = APIRouter(prefix="/v1/fine_tuning/checkpoints/{checkpoint:path}/permissions", tags=["fine-tuning"], route_class=ApiRoute)


@router.post("")
def create_permissions(app: App, caller: Writer, checkpoint: str, body: PermissionRequest) -> Page[PermissionObject]:
    """Let other projects start jobs from a checkpoint."""
    with app.database.transaction() as session:
        given = service.create(session, caller.project_id, checkpoint, body.project_ids)
    return Page[PermissionObject].of([PermissionObject.of(permission) for permission in given])


@router.get("")
def list_permissions(
    app: App,
    caller: Reader,
    checkpoint: str,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
    order: Order = "descending",
    project_id: Annotated[str | None, Query(max_length=256)] = None,
) -> Page[PermissionObject]:
    with app.database.read() as session:
        found = service.page(session, caller.project_id, checkpoint, only=project_id, order=order, after=after, limit=limit)
    return Page[PermissionObject].of([PermissionObject.of(permission) for permission in found], limit)


@router.delete("/{permission_id}")
def delete_permission(app: App, caller: Writer, checkpoint: str, permission_id: str) -> PermissionDeleted:
    with app.database.transaction() as session:
        service.delete(session, caller.project_id, checkpoint, permission_id)
    return PermissionDeleted(id=permission_id)
