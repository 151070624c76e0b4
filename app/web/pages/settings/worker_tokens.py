from collections.abc import Collection, Mapping
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response

from app.auth.caller import Caller
from app.base.errors import ApiError
from app.http.dependencies import ServicesDep
from app.projects import actions as projects
from app.services import Services
from app.web.forms import Errors, errors_of, notify_refusals, parse_form, redirect_to
from app.web.pages.settings.layout import HERE, NOTHING, settings_page
from app.web.session import notify
from app.web.visitor import CHANGES, MAX_FORM_BYTES, InstallationVisitor, PageRoute
from app.workers import actions
from app.workers.schemas import WorkerTokenRequest

MAX_PROJECTS = 1000
MAX_FIELDS = MAX_PROJECTS + 10  # one a project, and those beside them
MAX_TOKEN_FORM_BYTES = MAX_FIELDS * 64  # an id has 37 characters
TOKENS = f"{HERE}/worker_tokens"
FIELDS = ("name", "project_ids")

router = APIRouter(prefix=TOKENS, route_class=PageRoute)


@router.get("")
def worker_tokens_page(
    services: ServicesDep, request: Request, caller: InstallationVisitor
) -> Response:
    return _page(services, request, caller, [caller.project_id])


@router.post(
    "",
    max_body_size=MAX_TOKEN_FORM_BYTES,
    form_limits={"max_fields": MAX_FIELDS},
    dependencies=CHANGES,
)
def create_worker_token(
    services: ServicesDep,
    request: Request,
    caller: InstallationVisitor,
    name: Annotated[str | None, Form()] = None,
    project: Annotated[list[str] | None, Form()] = None,
) -> Response:
    """Answer with the page that shows the secret itself: it is kept nowhere, not even for one more
    page.
    """
    chosen = project or []
    try:
        token_request = parse_form(WorkerTokenRequest, name=name, project_ids=chosen)
        token, secret = actions.create_token(services, caller, token_request)
    except ApiError as error:
        errors = errors_of(error, FIELDS)
        return _page(services, request, caller, chosen, {"name": name}, errors)
    return settings_page(
        request, "worker_token.html", caller, TOKENS, worker_token=token, secret=secret
    )


@router.post("/{token_id}/revoke", max_body_size=MAX_FORM_BYTES, dependencies=CHANGES)
def revoke_worker_token(
    services: ServicesDep, request: Request, caller: InstallationVisitor, token_id: str
) -> Response:
    with notify_refusals(request):
        actions.revoke_token(services, caller, token_id)
        notify(request, "The token is revoked: its workers lose their jobs with their next call.")
    return redirect_to(TOKENS)


def _page(
    services: Services,
    request: Request,
    caller: Caller,
    chosen: Collection[str],
    values: Mapping[str, str | None] = NOTHING,
    errors: Errors | None = None,
) -> Response:
    listed = projects.list_projects(services, caller, limit=MAX_PROJECTS)
    return settings_page(
        request,
        "worker_tokens.html",
        caller,
        TOKENS,
        values,
        errors,
        worker_tokens=actions.list_tokens(services, caller),
        names={project.id: project.name for project in listed.data if project.status == "active"},
        has_more=listed.has_more,
        chosen=chosen,
    )
