from typing import Annotated

from fastapi import APIRouter, Query

from app.http.dependencies import Admin, After, ServicesDep
from app.http.pagination import Page
from app.http.routes import ApiRoute
from app.projects import service
from app.projects.schemas import ProjectChange, ProjectObject, ProjectRequest

router = APIRouter(prefix="/v1/projects", tags=["projects and keys"], route_class=ApiRoute)


@router.post("")
def create_project(services: ServicesDep, caller: Admin, body: ProjectRequest) -> ProjectObject:
    return service.create_project(services, caller, body)


@router.get("")
def list_projects(
    services: ServicesDep,
    caller: Admin,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> Page[ProjectObject]:
    """List the default project, then the newest first, archived ones too. An administrator of one
    project sees only that project.
    """
    return service.list_projects(services, caller, after=after, limit=limit)


@router.get("/{project_id}")
def retrieve_project(services: ServicesDep, caller: Admin, project_id: str) -> ProjectObject:
    return service.retrieve_project(services, caller, project_id)


@router.post("/{project_id}")
def change_project(
    services: ServicesDep, caller: Admin, project_id: str, body: ProjectChange
) -> ProjectObject:
    return service.change_project(services, caller, project_id, body)


@router.post("/{project_id}/archive")
def archive_project(services: ServicesDep, caller: Admin, project_id: str) -> ProjectObject:
    """Archive a project; refused while jobs of it have not ended. Its keys are invalid from then
    on; its rows and bytes stay.
    """
    return service.archive_project(services, caller, project_id)
