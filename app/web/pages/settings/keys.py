import time
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response

from app.http.dependencies import After, App
from app.keys import endpoints
from app.keys.schemas import KeyRequest
from app.models import Scope
from app.projects import endpoints as projects
from app.web.forms import asked, to, told
from app.web.pages.settings.shown import HERE, settings_page
from app.web.session import notify
from app.web.visitor import CHANGES, MAX_FORM_BYTES, AdminVisitor, PageRoute

LIMIT, MAX_PROJECTS = 50, 1000
DAY = 24 * 3600
LIFETIMES = {"": "never", str(7 * DAY): "in 7 days", str(30 * DAY): "in 30 days", str(365 * DAY): "in a year"}
RIGHTS = {
    Scope.READ: "sees files, jobs and models, and downloads them",
    Scope.WRITE: "also uploads, trains, cancels and deletes",
    Scope.ADMIN: "also makes and revokes keys, and administers the project",
}
KEYS = f"{HERE}/keys"
Field = Annotated[str | None, Form()]

router = APIRouter(prefix=KEYS, route_class=PageRoute)


@router.get("")
def keys_page(app: App, request: Request, caller: AdminVisitor, after: After = None) -> Response:
    keys = endpoints.list_keys(app, caller, after, LIMIT)
    active = [one for one in projects.list_projects(app, caller, limit=MAX_PROJECTS).data if one.status == "active"]
    names = {one.id: one.name for one in active}
    return settings_page(request, "keys.html", caller, KEYS, keys=keys, names=names, rights=RIGHTS, lifetimes=LIFETIMES, after=after)


@router.post("", max_body_size=MAX_FORM_BYTES, dependencies=CHANGES)
def create_key(
    app: App,
    request: Request,
    caller: AdminVisitor,
    name: Field = None,
    scope: Field = None,
    project_id: Field = None,
    lifetime: Field = None,
) -> Response:
    """The answer itself is the page that shows the secret: it is kept nowhere, not even for one more page."""
    with told(request):
        expires_at = str(int(time.time()) + int(lifetime)) if lifetime and lifetime.isdecimal() else None
        wanted = asked(KeyRequest, name=name, scope=scope, project_id=project_id, expires_at=expires_at)
        key = endpoints.create_key(app, caller, wanted, Response())
        return settings_page(request, "key.html", caller, KEYS, key=key)
    return to(KEYS)


@router.post("/{key_id}/revoke", max_body_size=MAX_FORM_BYTES, dependencies=CHANGES)
def revoke_key(app: App, request: Request, caller: AdminVisitor, key_id: str) -> Response:
    with told(request):
        endpoints.revoke_key(app, caller, key_id)
        notify(request, "The key is revoked: it opens nothing any more.")
    return to(KEYS)
