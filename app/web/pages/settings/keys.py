import time
from typing import Annotated

from fastapi import Form, Request, Response

from app.auth.caller import Caller
from app.http.dependencies import After, ServicesDep
from app.keys import service
from app.keys.schemas import KeyRequest
from app.models import Scope
from app.projects import service as projects
from app.services import Services
from app.web.forms import (
    EMPTY_FORM,
    InvalidForm,
    TypedForm,
    notify_refusals,
    parse_form,
    redirect_to,
)
from app.web.pages.settings.layout import SETTINGS_PATH, settings_page
from app.web.session import notify
from app.web.visitor import AdminVisitor, PageRouter

PAGE_SIZE = 50
MAX_PROJECTS = 1000
DAY = 24 * 3600
LIFETIMES = {
    "": "never",
    str(7 * DAY): "in 7 days",
    str(30 * DAY): "in 30 days",
    str(365 * DAY): "in a year",
}
RIGHTS = {
    Scope.METRICS: "reads metrics of the installation, and does nothing else",
    Scope.INFER: "asks models, and does nothing else",
    Scope.READ: "also sees files, jobs and models, and downloads them",
    Scope.AGENT: "also uploads, trains up to its daily budget, and evaluates",
    Scope.WRITE: "also trains without that budget, cancels and deletes",
    Scope.ADMIN: "also makes and revokes keys, and administers the project",
}
KEYS_PATH = f"{SETTINGS_PATH}/keys"
Field = Annotated[str | None, Form()]

router = PageRouter(KEYS_PATH)


@router.get("")
def keys_page(
    services: ServicesDep, request: Request, caller: AdminVisitor, after: After = None
) -> Response:
    return _page(services, request, caller, after)


@router.change("")
def create_key(
    services: ServicesDep,
    request: Request,
    caller: AdminVisitor,
    name: Field = None,
    scope: Field = None,
    project_id: Field = None,
    lifetime: Field = None,
    daily_budget_usd: Field = None,
) -> Response:
    """Answer with the page that shows the secret itself: it is kept nowhere, not even for one more
    page.
    """
    typed = {
        "name": name,
        "scope": scope,
        "lifetime": lifetime,
        "daily_budget_usd": daily_budget_usd,
    }
    if caller.administers_installation:  # The others have no field for it.
        typed["project_id"] = project_id
    with TypedForm(**typed) as form:
        expires_at = _expiry(lifetime or "")
        key_request = parse_form(
            KeyRequest,
            name=name,
            scope=scope,
            project_id=project_id,
            expires_at=expires_at,
            daily_budget_usd=daily_budget_usd,
        )
        key = service.create_key(services, caller, key_request)
        return settings_page(request, "key.html", caller, KEYS_PATH, key=key)
    return _page(services, request, caller, None, form)


@router.change("/{key_id}/revoke")
def revoke_key(
    services: ServicesDep, request: Request, caller: AdminVisitor, key_id: str
) -> Response:
    with notify_refusals(request):
        service.revoke_key(services, caller, key_id)
        notify(request, "Key revoked. It no longer works.")
    return redirect_to(KEYS_PATH)


def _expiry(lifetime: str) -> str | None:
    """Return the expiry of a key that is made now. Raises `InvalidForm`."""
    if lifetime not in LIFETIMES:
        raise InvalidForm({"": "Choose an expiry from the list."})
    return str(int(time.time()) + int(lifetime)) if lifetime else None


def _page(
    services: Services,
    request: Request,
    caller: Caller,
    after: str | None,
    form: TypedForm = EMPTY_FORM,
) -> Response:
    keys = service.list_keys(services, caller, after=after, limit=PAGE_SIZE)
    administered = projects.list_projects(services, caller, limit=MAX_PROJECTS).data
    names = {project.id: project.name for project in administered if project.status == "active"}
    return settings_page(
        request,
        "keys.html",
        caller,
        KEYS_PATH,
        form,
        keys=keys,
        names=names,
        rights=RIGHTS,
        lifetimes=LIFETIMES,
        after=after,
    )
