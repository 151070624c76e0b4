"""Use cases of projects; each function is one unit of work."""

from sqlalchemy.orm import Session

from app.auth import audit
from app.auth.caller import Caller
from app.base.errors import Forbidden, IllegalState, InvalidRequest, NotFound
from app.base.ids import new_id
from app.http.pagination import Page, invalid_cursor
from app.models import DEFAULT_PROJECT_ID, Project
from app.projects import repository
from app.projects.schemas import ProjectChange, ProjectObject, ProjectRequest
from app.services import Services

RETENTION = {"checkpoints_kept_days", "models_kept_days"}
# By an admin of the project itself.
SET_BY_PROJECTS = {"name", "answer_storage", "evaluate", "serve_as"} | RETENTION


def create_project(services: Services, caller: Caller, request: ProjectRequest) -> ProjectObject:
    caller.must_administer_installation()
    with services.database.transaction() as session:
        project = Project(id=new_id("proj_"), **dict(request))
        session.add(project)
        session.flush()
        session.refresh(project)
        audit.record(session, caller, "project.created", project.id)
        return _with_usage(session, project)


def list_projects(
    services: Services,
    caller: Caller,
    *,
    after: str | None = None,
    limit: int,
    with_usage: bool = False,
) -> Page[ProjectObject]:
    """Return the default project, then the newest first; with their usage only on request."""
    with services.database.read() as session:
        if after is not None and find_administered(session, caller, after) is None:
            raise invalid_cursor(after, "a project that you administer")
        projects = repository.newest_first(
            session, caller.administered_project, after=after, limit=limit
        )
        used = repository.usages(session, projects) if with_usage else [None] * len(projects)
        objects = list(map(ProjectObject.of, projects, used))
        return Page[ProjectObject].of(objects, limit)


def list_limited(services: Services, caller: Caller, *, limit: int) -> list[ProjectObject]:
    """Return the active projects with a quota, with their usage."""
    caller.must_administer_installation()
    with services.database.read() as session:
        projects = repository.limited(session, limit=limit)
        return list(map(ProjectObject.of, projects, repository.usages(session, projects)))


def retrieve_project(services: Services, caller: Caller, project_id: str) -> ProjectObject:
    with services.database.read() as session:
        return _with_usage(session, get(session, caller, project_id))


def change_project(
    services: Services, caller: Caller, project_id: str, request: ProjectChange
) -> ProjectObject:
    with services.database.transaction() as session:
        project = get(session, caller, project_id)
        values = {name: value for name, value in request if name in request.model_fields_set}
        limits = sorted(values.keys() - SET_BY_PROJECTS)
        if limits and not caller.administers_installation:
            raise Forbidden(
                f"{limits[0]}: only an admin key of the project '{DEFAULT_PROJECT_ID}' "
                "may set this.",
                param=limits[0],
            )
        if values.keys() - RETENTION:  # Of an archived project only what its bytes are kept for.
            must_be_active(project)
        for column, value in values.items():
            setattr(project, column, value)
        if session.is_modified(project):
            audit.record(session, caller, "project.updated", project_id)
        session.flush()
        return _with_usage(session, project)


def archive_project(services: Services, caller: Caller, project_id: str) -> ProjectObject:
    """Archive a project: its keys become invalid, its contents stay. Idempotent."""
    caller.must_administer_installation()
    with services.database.transaction() as session:
        project = get(session, caller, project_id)
        if project.id == DEFAULT_PROJECT_ID:
            raise IllegalState(
                "The default project cannot be archived: its admin keys administer the service.",
                code="default_project",
            )
        repository.lock(session, project_id)
        session.refresh(project)
        if project.archived_at is not None:
            return _with_usage(session, project)
        live = repository.live_jobs(session, project_id)
        if live:
            raise IllegalState(
                f"{live} jobs of the project have not ended; cancel them first.",
                code="project_in_use",
            )
        repository.mark_archived(session, project_id)
        audit.record(session, caller, "project.archived", project_id)
        session.refresh(project)
        return _with_usage(session, project)


def read_month(services: Services) -> str:
    """Return the month that quotas of device hours are counted in."""
    with services.database.read() as session:
        return repository.current_month(session)


def _with_usage(session: Session, project: Project) -> ProjectObject:
    (used,) = repository.usages(session, [project])
    return ProjectObject.of(project, used)


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
    """Return the project if the caller administers it."""
    if caller.administered_project not in (None, project_id):
        return None
    return repository.find(session, project_id)


def must_be_active(project: Project) -> None:
    if project.archived_at is not None:
        raise IllegalState(f"The project '{project.id}' is archived.", code="project_archived")
