from typing import Annotated

from fastapi import APIRouter, Form, Request, Response

from app.http.dependencies import After, App
from app.http.pagination import Page
from app.models import Scope
from app.projects import endpoints, service
from app.projects.schemas import ProjectChange, ProjectObject, ProjectRequest
from app.web.forms import asked, to, told
from app.web.pages.settings.shown import HERE, settings_page
from app.web.session import notify
from app.web.visitor import CHANGES, MAX_FORM_BYTES, AdminVisitor, InstallationVisitor, PageRoute, Visitor

LIMIT = 20
Field = Annotated[str | None, Form()]

router = APIRouter(prefix=HERE, route_class=PageRoute)


@router.get("")
def projects_page(app: App, request: Request, caller: Visitor, after: After = None) -> Response:
    """Everybody sees what their key may do, an admin also the projects that it administers."""
    projects: Page[ProjectObject] | None = None
    with app.database.read() as session:
        this_month = service.this_month(session)
        if caller.scope is Scope.ADMIN:
            found = service.page(session, caller, after=after, limit=LIMIT)
            shown = [ProjectObject.of(project, service.usage(session, project)) for project in found]
            projects = Page[ProjectObject].of(shown, LIMIT)
    context = {"projects": projects, "after": after, "month": this_month, "default_rate": app.settings.requests_per_minute}
    return settings_page(request, "projects.html", caller, HERE, **context)


@router.post("/projects", max_body_size=MAX_FORM_BYTES, dependencies=CHANGES)
def create_project(app: App, request: Request, caller: InstallationVisitor, name: Field = None) -> Response:
    with told(request):
        project = endpoints.create_project(app, caller, asked(ProjectRequest, name=name))
        notify(request, "The project is there. Set its limits, and make a key for it.")
        return to(f"{HERE}/projects/{project.id}")
    return to(HERE)


@router.get("/projects/{project_id}")
def project_page(app: App, request: Request, caller: AdminVisitor, project_id: str) -> Response:
    project = endpoints.retrieve_project(app, caller, project_id)
    with app.database.read() as session:
        this_month = service.this_month(session)
    return settings_page(request, "project.html", caller, HERE, project=project, month=this_month)


@router.post("/projects/{project_id}", max_body_size=MAX_FORM_BYTES, dependencies=CHANGES)
def change_project(app: App, request: Request, caller: AdminVisitor, project_id: str, name: Field = None) -> Response:
    with told(request):
        endpoints.change_project(app, caller, project_id, asked(ProjectChange, name=name))
        notify(request, "The project has its new name.")
    return to(f"{HERE}/projects/{project_id}")


@router.post("/projects/{project_id}/limits", max_body_size=MAX_FORM_BYTES, dependencies=CHANGES)
def limit_project(
    app: App,
    request: Request,
    caller: InstallationVisitor,
    project_id: str,
    weight: Field = None,
    requests_per_minute: Field = None,
    max_live_jobs: Field = None,
    max_storage_bytes: Field = None,
    max_device_hours: Field = None,
) -> Response:
    """An empty field takes the limit away."""
    limits = {
        "requests_per_minute": requests_per_minute,
        "max_live_jobs": max_live_jobs,
        "max_storage_bytes": max_storage_bytes,
        "max_device_hours": max_device_hours,
    }
    with told(request):
        given = asked(ProjectChange, weight=weight, **limits).model_dump(exclude_unset=True)
        endpoints.change_project(app, caller, project_id, ProjectChange.model_validate(dict.fromkeys(limits) | given))
        notify(request, "The limits are set.")
    return to(f"{HERE}/projects/{project_id}")


@router.post("/projects/{project_id}/archive", max_body_size=MAX_FORM_BYTES, dependencies=CHANGES)
def archive_project(app: App, request: Request, caller: InstallationVisitor, project_id: str) -> Response:
    with told(request):
        endpoints.archive_project(app, caller, project_id)
        notify(request, "The project is archived; its keys open nothing any more.")
    return to(f"{HERE}/projects/{project_id}")
