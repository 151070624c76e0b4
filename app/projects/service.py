from sqlalchemy.orm import Session

from app.auth.caller import Caller
from app.base.errors import IllegalState, InvalidRequest, NotFound
from app.models import Project
from app.projects import repository


def get(session: Session, caller: Caller, project_id: str) -> Project:
    project = find_administered(session, caller, project_id)
    if project is None:
        raise NotFound(
            f"No such project: {project_id}", param="project_id", code="project_not_found"
        )
    return project


def for_new_key(session: Session, caller: Caller, project_id: str) -> Project:
    project = find_administered(session, caller, project_id)
    if project is None:
        raise InvalidRequest(
            f"project_id: no such project: {project_id}",
            param="project_id",
            code="project_not_found",
        )
    must_be_active(project)
    return project


def find_administered(session: Session, caller: Caller, project_id: str) -> Project | None:
    """Return the project where the caller administers it."""
    if caller.administered_project not in (None, project_id):
        return None
    return repository.find(session, project_id)


def must_be_active(project: Project) -> None:
    if project.archived_at is not None:
        raise IllegalState(f"The project '{project.id}' is archived.", code="project_archived")
