from collections.abc import Collection
from typing import Annotated

from fastapi import Form, Request, Response

from app.auth.caller import Caller
from app.http.dependencies import ServicesDep
from app.projects import service as projects
from app.services import Services
from app.web.forms import EMPTY_FORM, TypedForm, notify_refusals, parse_form, redirect_to
from app.web.pages.settings.layout import SETTINGS_PATH, settings_page
from app.web.session import notify
from app.web.visitor import CHANGES, InstallationVisitor, PageRouter
from app.workers import service
from app.workers.schemas import WorkerTokenRequest

MAX_PROJECTS = 1000
MAX_FIELDS = MAX_PROJECTS + 10  # One field a project, and the fields beside them.
MAX_TOKEN_FORM_BYTES = MAX_FIELDS * 64  # an id has 37 characters
TOKENS_PATH = f"{SETTINGS_PATH}/worker_tokens"

router = PageRouter(TOKENS_PATH)


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
    with TypedForm("project_ids", name=name) as form:
        token_request = parse_form(WorkerTokenRequest, name=name, project_ids=chosen)
        token, secret = service.create_token(services, caller, token_request)
        return settings_page(
            request, "worker_token.html", caller, TOKENS_PATH, worker_token=token, secret=secret
        )
    return _page(services, request, caller, chosen, form)


@router.change("/{token_id}/revoke")
def revoke_worker_token(
    services: ServicesDep, request: Request, caller: InstallationVisitor, token_id: str
) -> Response:
    with notify_refusals(request):
        service.revoke_token(services, caller, token_id)
        notify(request, "Token revoked. Its workers lose their jobs with their next call.")
    return redirect_to(TOKENS_PATH)


def _page(
    services: Services,
    request: Request,
    caller: Caller,
    chosen: Collection[str],
    form: TypedForm = EMPTY_FORM,
) -> Response:
    listed = projects.list_projects(services, caller, limit=MAX_PROJECTS)
    return settings_page(
        request,
        "worker_tokens.html",
        caller,
        TOKENS_PATH,
        form,
        worker_tokens=service.list_tokens(services, caller),
        names={project.id: project.name for project in listed.data if project.status == "active"},
        has_more=listed.has_more,
        chosen=chosen,
    )
