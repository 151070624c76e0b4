"""What callers do with projects; each function is one unit of work."""

from sqlalchemy.orm import Session

from app.auth.caller import Caller
from app.base.errors import Forbidden, IllegalState
from app.base.ids import new_id
from app.http.pagination import Page, invalid_cursor
from app.models import DEFAULT_PROJECT_ID, Project
from app.projects import repository, service
from app.projects.schemas import ProjectChange, ProjectObject, ProjectRequest
from app.services import Services


def create_project(services: Services, caller: Caller, request: ProjectRequest) -> ProjectObject:
    caller.must_administer_installation()
    with services.database.transaction() as session:
        project = Project(id=new_id("proj_"), **request.model_dump())
        session.add(project)
        session.flush()
        session.refresh(project)
        return _with_usage(session, project)


def list_projects(
    services: Services,
    caller: Caller,
    *,
    after: str | None = None,
    limit: int,
    with_usage: bool = False,
) -> Page[ProjectObject]:
    """Return the default project, then the newest first; what they use only where asked for."""
    with services.database.read() as session:
        if after is not None and service.find_administered(session, caller, after) is None:
            raise invalid_cursor(after, "a project that you administer")
        projects = repository.newest_first(
            session, caller.administered_project, after=after, limit=limit
        )
        used = repository.usages(session, projects) if with_usage else [None] * len(projects)
        objects = list(map(ProjectObject.of, projects, used))
        return Page[ProjectObject].of(objects, limit)


def retrieve_project(services: Services, caller: Caller, project_id: str) -> ProjectObject:
    with services.database.read() as session:
        return _with_usage(session, service.get(session, caller, project_id))


def change_project(
    services: Services, caller: Caller, project_id: str, request: ProjectChange
) -> ProjectObject:
    with services.database.transaction() as session:
        project = service.get(session, caller, project_id)
        values = request.model_dump(exclude_unset=True)
        limits = sorted(values.keys() - {"name"})
        if limits and not caller.administers_installation:
            raise Forbidden(
                f"{limits[0]}: only an admin key of the project '{DEFAULT_PROJECT_ID}' "
                "may set this.",
                param=limits[0],
            )
        service.must_be_active(project)
        for column, value in values.items():
            setattr(project, column, value)
        session.flush()
        return _with_usage(session, project)


def archive_project(services: Services, caller: Caller, project_id: str) -> ProjectObject:
    """Archive a project: its keys open nothing any more, what it holds stays. Idempotent."""
    caller.must_administer_installation()
    with services.database.transaction() as session:
        project = service.get(session, caller, project_id)
        if project.id == DEFAULT_PROJECT_ID:
            raise IllegalState(
                "The default project cannot be archived: its admin keys administer the service.",
                code="default_project",
            )
        repository.lock(session, project_id)
        live = repository.live_jobs(session, project_id)
        if live:
            raise IllegalState(
                f"{live} jobs of the project have not ended; cancel them first.",
                code="project_in_use",
            )
        repository.mark_archived(session, project_id)
        session.refresh(project)
        return _with_usage(session, project)


def read_month(services: Services) -> str:
    """Return the month that quotas of device hours are counted in."""
    with services.database.read() as session:
        return repository.current_month(session)


def _with_usage(session: Session, project: Project) -> ProjectObject:
    (used,) = repository.usages(session, [project])
    return ProjectObject.of(project, used)
