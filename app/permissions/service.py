"""Use cases of permissions; each function is one unit of work."""

from collections.abc import Sequence

from app.auth import audit
from app.auth.caller import Caller
from app.base.errors import InvalidRequest, NotFound
from app.http.pagination import Page, check_cursor
from app.jobs.base_model import own_checkpoint
from app.models import CheckpointPermission
from app.permissions import repository
from app.permissions.schemas import Order, PermissionDeleted, PermissionObject, PermissionRequest
from app.services import Services


def create_permissions(
    services: Services, caller: Caller, checkpoint_name: str, request: PermissionRequest
) -> Page[PermissionObject]:
    """Let other projects use a checkpoint of the caller's project. Idempotent."""
    with services.database.transaction() as session:
        checkpoint = own_checkpoint(session, caller.project_id, checkpoint_name)
        if unknown := repository.unknown_projects(session, request.project_ids):
            raise InvalidRequest(
                f"project_ids: there is no project '{unknown[0]}'.",
                param="project_ids",
                code="project_not_found",
            )
        permissions = repository.add(session, checkpoint.id, request.project_ids)
        audit.record(session, caller, "checkpoint.permission.created", checkpoint_name)
    return _page(permissions)


def list_permissions(
    services: Services,
    caller: Caller,
    checkpoint_name: str,
    *,
    project_id: str | None,
    order: Order,
    after: str | None,
    limit: int,
) -> Page[PermissionObject]:
    with services.database.read() as session:
        checkpoint = own_checkpoint(session, caller.project_id, checkpoint_name)
        check_cursor(after, "cp_", "a permission")
        permissions = repository.page(
            session, checkpoint.id, project_id=project_id, order=order, after=after, limit=limit
        )
    return _page(permissions, limit)


def delete_permission(
    services: Services, caller: Caller, checkpoint_name: str, permission_id: str
) -> PermissionDeleted:
    """Delete a permission; existing jobs keep their base."""
    with services.database.transaction() as session:
        checkpoint = own_checkpoint(session, caller.project_id, checkpoint_name)
        if repository.find(session, checkpoint.id, permission_id) is None:
            raise NotFound(
                f"There is no permission '{permission_id}' for this checkpoint.",
                param="permission_id",
                code="permission_not_found",
            )
        repository.delete(session, permission_id)
        audit.record(session, caller, "checkpoint.permission.deleted", permission_id)
    return PermissionDeleted(id=permission_id)


def _page(
    permissions: Sequence[CheckpointPermission], limit: int | None = None
) -> Page[PermissionObject]:
    objects = [PermissionObject.of(permission) for permission in permissions]
    return Page[PermissionObject].of(objects, limit)
