from sqlalchemy.orm import Session

from app.auth.caller import Caller
from app.database import now
from app.errors import Forbidden, IllegalState, InvalidRequest, NotFound
from app.http.pagination import invalid_cursor
from app.ids import new_id
from app.models import DEFAULT_PROJECT_ID, Project
from app.projects import repository
from app.projects.repository import Usage
from app.projects.schemas import ProjectChange, ProjectRequest


def create(session: Session, caller: Caller, request: ProjectRequest) -> Project:
    caller.must_administer_installation()
    project = Project(id=new_id("proj_"), **request.model_dump())
    session.add(project)
    session.flush()
    session.refresh(project)
    return project


def get(session: Session, caller: Caller, project_id: str) -> Project:
    project = _visible(session, caller, project_id)
    if project is None:
        raise NotFound(f"No such project: {project_id}", param="project_id", code="project_not_found")
    return project


def page(session: Session, caller: Caller, *, after: str | None, limit: int) -> list[Project]:
    if after is not None and _visible(session, caller, after) is None:
        raise invalid_cursor(after, "a project that you administer")
    return repository.newest_first(session, caller.administered_project, after=after, limit=limit)


def this_month(session: Session) -> str:
    """That quotas of device hours are counted in."""
    return repository.month(now(session))


def usage(session: Session, project: Project) -> Usage:
    return repository.usage(session, project)


def for_new_key(session: Session, caller: Caller, project_id: str) -> Project:
    project = _visible(session, caller, project_id)
    if project is None:
        raise InvalidRequest(f"project_id: no such project: {project_id}", param="project_id", code="project_not_found")
    _must_be_active(project)
    return project


def change(session: Session, caller: Caller, project_id: str, request: ProjectChange) -> Project:
    project = get(session, caller, project_id)
    values = request.model_dump(exclude_unset=True)
    beyond = sorted(values.keys() - {"name"})
    if beyond and not caller.administers_installation:
        raise Forbidden(f"{beyond[0]}: only an admin key of the project '{DEFAULT_PROJECT_ID}' may set this.", param=beyond[0])
    _must_be_active(project)
    for column, value in values.items():
        setattr(project, column, value)
    session.flush()
    return project


def archive(session: Session, caller: Caller, project_id: str) -> Project:
    """Its keys open nothing any more; what it holds stays. Twice is once."""
    caller.must_administer_installation()
    project = get(session, caller, project_id)
    if project.id == DEFAULT_PROJECT_ID:
        raise IllegalState("The default project cannot be archived: its admin keys administer the service.", code="default_project")
    repository.lock(session, project_id)
    live = repository.live_jobs(session, project_id)
    if live:
        raise IllegalState(f"{live} jobs of the project have not ended; cancel them first.", code="project_in_use")
    repository.mark_archived(session, project_id)
    session.refresh(project)
    return project


def _visible(session: Session, caller: Caller, project_id: str) -> Project | None:
    mine = caller.administered_project in (None, project_id)
    return repository.find(session, project_id) if mine else None


def _must_be_active(project: Project) -> None:
    if project.archived_at is not None:
        raise IllegalState(f"The project '{project.id}' is archived.", code="project_archived")
