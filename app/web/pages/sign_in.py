from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request, Response
from starlette.responses import RedirectResponse

from app.errors import InvalidApiKey, RateLimited
from app.http.dependencies import App, address_of, authenticate
from app.keys import service as keys
from app.web import link as links
from app.web import session
from app.web.rendering import page
from app.web.visitor import CHANGES, MAX_FORM_BYTES, PageRoute

router = APIRouter(route_class=PageRoute)


@router.get("/sign-in")
def sign_in_page(app: App, request: Request, link: str = "", next: str = "/") -> Response:
    if not link:
        return page(request, "sign_in.html", refused="", next=_local(next))
    key_id = links.redeem(app.settings.data_dir.resolve(), link)
    with app.database.read() as database:
        caller = keys.still_valid(database, key_id) if key_id else None
    if caller is None:
        refused = "This link has been used, is too old, or was replaced when the service started again. Sign in with an API key."
        return page(request, "sign_in.html", status_code=401, refused=refused, next="/")
    session.begin(request, caller.key_id)
    return RedirectResponse("/", 303)


@router.post("/sign-in", max_body_size=MAX_FORM_BYTES, dependencies=[Depends(session.refuse_other_sites)])
def sign_in(app: App, request: Request, key: Annotated[str, Form()], next: Annotated[str, Form()] = "/") -> Response:
    try:
        caller = authenticate(app, address_of(request), key.strip())
    except (InvalidApiKey, RateLimited) as error:
        return page(request, "sign_in.html", status_code=error.status, refused=error.message, next=_local(next))
    session.begin(request, caller.key_id)
    return RedirectResponse(_local(next), 303)


@router.post("/sign-out", max_body_size=MAX_FORM_BYTES, dependencies=CHANGES)
def sign_out(app: App, request: Request) -> Response:
    with app.database.transaction() as database:
        session.end(database, request)
    return RedirectResponse("/sign-in", 303)


def _local(path: str) -> str:
    """Only a page of ours: browsers read `//host` and `/\\host` as another site's."""
    return path if path.startswith("/") and path[1:2] not in ("/", "\\") and path.isprintable() else "/"
