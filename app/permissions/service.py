from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.errors import InvalidRequest, NotFound
from app.http.pagination import check_cursor
from app.jobs.base_model import own_checkpoint
from app.models import CheckpointPermission
from app.permissions import repository
from app.permissions.repository import Order


def create(session: Session, project_id: str, checkpoint: str, project_ids: Sequence[str]) -> list[CheckpointPermission]:
    """Only the project that a checkpoint belongs to shares it; giving twice is giving once."""
    found = own_checkpoint(session, project_id, checkpoint)
    if unknown := repository.unknown_projects(session, project_ids):
        raise InvalidRequest(f"project_ids: there is no project '{unknown[0]}'.", param="project_ids", code="project_not_found")
    return repository.add(session, found.id, project_ids)


def page(
    session: Session, project_id: str, checkpoint: str, *, only: str | None, order: Order, after: str | None, limit: int
) -> list[CheckpointPermission]:
    found = own_checkpoint(session, project_id, checkpoint)
    check_cursor(after, "cp_", "a permission")
    return repository.page(session, found.id, project_id=only, order=order, after=after, limit=limit)


def delete(session: Session, project_id: str, checkpoint: str, permission_id: str) -> None:
    """Jobs that exist already keep their base."""
    found = own_checkpoint(session, project_id, checkpoint)
    if repository.find(session, found.id, permission_id) is None:
        raise NotFound(f"There is no permission '{permission_id}' for this checkpoint.", param="permission_id", code="permission_not_found")
    repository.delete(session, permission_id)
