from typing import Annotated

from fastapi import APIRouter, Query

from app.http.dependencies import Admin, After, ApiRoute, App
from app.http.pagination import Page
from app.projects import service
from app.projects.schemas import ProjectChange, ProjectObject, ProjectRequest

router = APIRouter(prefix="/v1/projects", tags=["projects and keys"], route_class=ApiRoute)


@router.post("")
def create_project(app: App, caller: Admin, body: ProjectRequest) -> ProjectObject:
    with app.database.transaction() as session:
        project = service.create(session, caller, body)
        return ProjectObject.of(project, service.usage(session, project))


@router.get("")
def list_projects(app: App, caller: Admin, after: After = None, limit: Annotated[int, Query(ge=1, le=1000)] = 20) -> Page[ProjectObject]:
    """The default project, then newest first, archived ones too. The admin of one project sees that one."""
    with app.database.read() as session:
        projects = service.page(session, caller, after=after, limit=limit)
    return Page[ProjectObject].of([ProjectObject.of(project) for project in projects], limit)


@router.get("/{project_id}")
def retrieve_project(app: App, caller: Admin, project_id: str) -> ProjectObject:
    with app.database.read() as session:
        project = service.get(session, caller, project_id)
        return ProjectObject.of(project, service.usage(session, project))


@router.post("/{project_id}")
def change_project(app: App, caller: Admin, project_id: str, body: ProjectChange) -> ProjectObject:
    with app.database.transaction() as session:
        project = service.change(session, caller, project_id, body)
        return ProjectObject.of(project, service.usage(session, project))


@router.post("/{project_id}/archive")
def archive_project(app: App, caller: Admin, project_id: str) -> ProjectObject:
    """Refused while jobs of it have not ended. Its keys are refused from then on; its rows and bytes stay."""
    with app.database.transaction() as session:
        project = service.archive(session, caller, project_id)
        return ProjectObject.of(project, service.usage(session, project))
