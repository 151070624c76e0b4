from typing import Annotated, get_args

from fastapi import Form, Request, Response

from app.auth.caller import Caller
from app.http.dependencies import After, ServicesDep
from app.models import Scope
from app.projects import service as projects
from app.services import Services
from app.users import service
from app.users.schemas import GrantedScope, GrantRequest
from app.web.forms import EMPTY_FORM, TypedForm, notify_refusals, parse_form, redirect_to
from app.web.pages.settings.keys import RIGHTS
from app.web.pages.settings.layout import SETTINGS_PATH, settings_page
from app.web.session import notify
from app.web.visitor import InstallationVisitor, PageRouter

PAGE_SIZE = 50
MAX_PROJECTS = 1000
PEOPLE_PATH = f"{SETTINGS_PATH}/people"
GRANTED = {scope: RIGHTS[Scope(scope)] for scope in get_args(GrantedScope)}
Field = Annotated[str | None, Form()]

router = PageRouter(PEOPLE_PATH)


@router.get("")
def people_page(
    services: ServicesDep, request: Request, caller: InstallationVisitor, after: After = None
) -> Response:
    return _page(services, request, caller, after)


@router.change("")
def put_grant(
    services: ServicesDep,
    request: Request,
    caller: InstallationVisitor,
    group: Field = None,
    project_id: Field = None,
    scope: Field = None,
) -> Response:
    with TypedForm(group=group, project_id=project_id, scope=scope) as form:
        grant_request = parse_form(GrantRequest, group=group, project_id=project_id, scope=scope)
        service.put_grant(services, caller, grant_request)
        notify(request, f"{grant_request.group} opens the project from the next sign-in on.")
        return redirect_to(PEOPLE_PATH)
    return _page(services, request, caller, None, form)


@router.change("/grants/{grant_id}/delete")
def delete_grant(
    services: ServicesDep, request: Request, caller: InstallationVisitor, grant_id: str
) -> Response:
    with notify_refusals(request):
        service.delete_grant(services, caller, grant_id)
        notify(request, "The group opens the project no more, from the next sign-in on.")
    return redirect_to(PEOPLE_PATH)


@router.change("/{user_id}/remove")
def remove_user(
    services: ServicesDep, request: Request, caller: InstallationVisitor, user_id: str
) -> Response:
    with notify_refusals(request):
        service.remove_user(services, caller, user_id)
        notify(request, "The person is removed: their sessions and keys have ended.")
    return redirect_to(PEOPLE_PATH)


@router.change("/{user_id}/readmit")
def readmit_user(
    services: ServicesDep, request: Request, caller: InstallationVisitor, user_id: str
) -> Response:
    with notify_refusals(request):
        service.readmit_user(services, caller, user_id)
        notify(request, "The person may sign in again. Their keys stay revoked.")
    return redirect_to(PEOPLE_PATH)


def _page(
    services: Services,
    request: Request,
    caller: Caller,
    after: str | None,
    form: TypedForm = EMPTY_FORM,
) -> Response:
    listed = projects.list_projects(services, caller, limit=MAX_PROJECTS).data
    return settings_page(
        request,
        "people.html",
        caller,
        PEOPLE_PATH,
        form,
        users=service.list_users(services, caller, after=after, limit=PAGE_SIZE),
        grants=service.list_grants(services, caller).data,
        names={project.id: project.name for project in listed if project.status == "active"},
        rights=GRANTED,
        provider=services.settings.provider_name,
        after=after,
    )
