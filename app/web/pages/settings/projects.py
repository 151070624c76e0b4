from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response

from app.auth.caller import Caller
from app.base.errors import ApiError
from app.http.dependencies import After, ServicesDep
from app.models import Scope
from app.projects import service
from app.projects.schemas import ProjectChange, ProjectRequest
from app.services import Services
from app.web.forms import (
    Errors,
    InvalidForm,
    errors_of,
    notify_refusals,
    parse_form,
    redirect_to,
)
from app.web.pages.settings.layout import NO_VALUES, SETTINGS_PATH, settings_page
from app.web.session import notify
from app.web.sizes import read_size
from app.web.visitor import (
    CHANGES,
    MAX_FORM_BYTES,
    AdminVisitor,
    InstallationVisitor,
    PageRoute,
    Visitor,
)

PAGE_SIZE = 20
Field = Annotated[str | None, Form()]

router = APIRouter(prefix=SETTINGS_PATH, route_class=PageRoute)


@router.get("")
def projects_page(
    services: ServicesDep, request: Request, caller: Visitor, after: After = None
) -> Response:
    """Show everybody what their key may do, an admin also the projects that it administers."""
    return _list_page(services, request, caller, after)


@router.post("/projects", max_body_size=MAX_FORM_BYTES, dependencies=CHANGES)
def create_project(
    services: ServicesDep, request: Request, caller: InstallationVisitor, name: Field = None
) -> Response:
    try:
        project = service.create_project(services, caller, parse_form(ProjectRequest, name=name))
    except ApiError as error:
        typed = {"name": name}
        return _list_page(services, request, caller, None, typed, errors_of(error, typed))
    notify(request, "The project is there. Set its limits, and make a key for it.")
    return redirect_to(f"{SETTINGS_PATH}/projects/{project.id}")


@router.get("/projects/{project_id}")
def project_page(
    services: ServicesDep, request: Request, caller: AdminVisitor, project_id: str
) -> Response:
    return _project_page(services, request, caller, project_id)


@router.post("/projects/{project_id}", max_body_size=MAX_FORM_BYTES, dependencies=CHANGES)
def change_project(
    services: ServicesDep,
    request: Request,
    caller: AdminVisitor,
    project_id: str,
    name: Field = None,
) -> Response:
    try:
        change = ProjectChange(name=parse_form(ProjectRequest, name=name).name)
        service.change_project(services, caller, project_id, change)
    except ApiError as error:
        typed = {"name": name}
        return _project_page(services, request, caller, project_id, typed, errors_of(error, typed))
    notify(request, "The project has its new name.")
    return redirect_to(f"{SETTINGS_PATH}/projects/{project_id}")


@router.post("/projects/{project_id}/limits", max_body_size=MAX_FORM_BYTES, dependencies=CHANGES)
def limit_project(
    services: ServicesDep,
    request: Request,
    caller: InstallationVisitor,
    project_id: str,
    weight: Field = None,
    requests_per_minute: Field = None,
    max_live_jobs: Field = None,
    max_storage_bytes: Field = None,
    max_device_hours: Field = None,
) -> Response:
    """Set the limits; an empty field removes one."""
    limits = {
        "requests_per_minute": requests_per_minute,
        "max_live_jobs": max_live_jobs,
        "max_storage_bytes": max_storage_bytes,
        "max_device_hours": max_device_hours,
    }
    try:
        changes = _read_limits(limits | {"weight": weight})
        service.change_project(
            services,
            caller,
            project_id,
            ProjectChange.model_validate(dict.fromkeys(limits) | changes),
        )
    except ApiError as error:
        typed = limits | {"weight": weight}
        return _project_page(services, request, caller, project_id, typed, errors_of(error, typed))
    notify(request, "The limits are set.")
    return redirect_to(f"{SETTINGS_PATH}/projects/{project_id}")


@router.post("/projects/{project_id}/archive", max_body_size=MAX_FORM_BYTES, dependencies=CHANGES)
def archive_project(
    services: ServicesDep, request: Request, caller: InstallationVisitor, project_id: str
) -> Response:
    with notify_refusals(request):
        service.archive_project(services, caller, project_id)
        notify(request, "The project is archived; its keys open nothing any more.")
    return redirect_to(f"{SETTINGS_PATH}/projects/{project_id}")


def _read_limits(typed: Mapping[str, str | None]) -> dict[str, Any]:
    """Return the limits that are set. Raises `InvalidForm`."""
    texts = dict(typed)
    errors: Errors = {}
    if size := texts.pop("max_storage_bytes"):
        try:
            texts["max_storage_bytes"] = str(read_size(size))
        except ValueError as error:
            errors["max_storage_bytes"] = str(error)
    try:
        limits = parse_form(ProjectChange, **texts).model_dump(exclude_unset=True)
    except InvalidForm as error:
        errors |= error.errors
    if errors:
        raise InvalidForm(errors)
    return limits


def _list_page(
    services: Services,
    request: Request,
    caller: Caller,
    after: str | None,
    values: Mapping[str, str | None] = NO_VALUES,
    errors: Errors | None = None,
) -> Response:
    projects = None
    if caller.scope is Scope.ADMIN:
        projects = service.list_projects(
            services, caller, after=after, limit=PAGE_SIZE, with_usage=True
        )
    context = {
        "projects": projects,
        "after": after,
        "month": service.read_month(services),
        "default_rate": services.settings.requests_per_minute,
        "tokens_per_minute": services.settings.tokens_per_minute,
    }
    return settings_page(request, "projects.html", caller, SETTINGS_PATH, values, errors, **context)


def _project_page(
    services: Services,
    request: Request,
    caller: Caller,
    project_id: str,
    values: Mapping[str, str | None] = NO_VALUES,
    errors: Errors | None = None,
) -> Response:
    context = {
        "project": service.retrieve_project(services, caller, project_id),
        "month": service.read_month(services),
    }
    return settings_page(request, "project.html", caller, SETTINGS_PATH, values, errors, **context)
