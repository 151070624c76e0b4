from typing import Annotated

from fastapi import Depends, Form, Request, Response
from starlette.responses import RedirectResponse

from app.auth import audit, keys
from app.auth.authentication import authenticate
from app.auth.caller import RIGHTS, Caller
from app.base.errors import Forbidden, InvalidApiKey, RateLimited
from app.http.dependencies import ServicesDep
from app.http.routes import address_of, with_origin
from app.models import Scope
from app.services import Services
from app.web import link as links
from app.web import session
from app.web.rendering import page
from app.web.sign_in_view import local_path, sign_in_view
from app.web.visitor import MAX_FORM_BYTES, PageRouter, Visitor

DEAD_LINK = (
    "This link has been used, is too old, or was replaced when the service started again. "
    "Sign in with an API key."
)

router = PageRouter()


@router.get("/sign-in")
def sign_in_page(
    services: ServicesDep, request: Request, link: str = "", next: str = "/", other: bool = False
) -> Response:
    """Ask for a key. `other`: of another project, beside the one that the session has. `link` opens
    once, so a request for the head alone does not use it.
    """
    if not link or request.method == "HEAD":
        return sign_in_view(request, next_page=local_path(next), other=other)
    key_id = links.redeem(services.settings.data_dir.resolve(), link)
    with services.database.read() as database:
        caller = keys.find_caller(database, key_id) if key_id else None
    if caller is None:
        return sign_in_view(request, refused=DEAD_LINK, status_code=401)
    _begin(services, request, caller)
    return RedirectResponse("/", 303)


@router.post(
    "/sign-in", max_body_size=MAX_FORM_BYTES, dependencies=[Depends(session.refuse_other_sites)]
)
def sign_in(
    services: ServicesDep,
    request: Request,
    key: Annotated[str, Form()],
    next: Annotated[str, Form()] = "/",
    other: Annotated[bool, Form()] = False,
) -> Response:
    try:
        caller = authenticate(
            services.database, services.failures, address_of(request), key.strip()
        )
        caller.must_have(Scope.READ)
    except (InvalidApiKey, RateLimited, Forbidden) as error:
        return sign_in_view(
            request,
            refused=error.message,
            status_code=error.status,
            next_page=local_path(next),
            other=other,
        )
    _begin(services, request, caller, beside=other)
    return RedirectResponse(local_path(next), 303)


@router.get("/project")
def projects_page(
    services: ServicesDep, request: Request, caller: Visitor, next: str = "/"
) -> Response:
    """Let a person choose among the projects of their sign-in."""
    with services.database.read() as database:
        callers = keys.sign_in_keys(database, caller.key_id) or [caller]
    return page(request, "projects.html", caller, callers=callers, next=local_path(next))


@router.change("/project")
def change_project(
    services: ServicesDep,
    request: Request,
    caller: Visitor,
    key: Annotated[str, Form()],
    next: Annotated[str, Form()] = "/",
) -> Response:
    """Go to the project of another key that this session, or its sign-in, was given."""
    with services.database.transaction() as database:
        if key == caller.key_id:
            return RedirectResponse(local_path(next), 303)
        signed_in = keys.sign_in_keys(database, caller.key_id)
        is_its_own = key in {*session.other_keys(request), *(each.key_id for each in signed_in)}
        other = keys.find_caller(database, key) if is_its_own else None
        if other is not None and RIGHTS.index(other.scope) >= RIGHTS.index(Scope.READ):
            session.change_key(database, request, other, caller)
            return RedirectResponse(local_path(next), 303)
    session.forget_key(request, key)
    session.notify(request, "This key no longer works. Sign in with another one.", failed=True)
    return RedirectResponse("/", 303)


@router.change("/sign-out")
def sign_out(services: ServicesDep, request: Request) -> Response:
    with services.database.read() as database:
        caller = keys.find_caller(database, session.key_of(database, request))
    with services.database.transaction() as database:
        if caller is not None:
            origin = with_origin(caller, request, session.session_id(request))
            audit.record(database, origin, "logout.succeeded")
            keys.end_sign_in(database, caller.key_id)
        session.end(database, request)
    return RedirectResponse("/sign-in", 303)


def _begin(services: Services, request: Request, caller: Caller, *, beside: bool = False) -> None:
    """Begin a session; `beside`: keep the key of the one there is, if it is another project's."""
    with services.database.transaction() as database:
        before = keys.find_caller(database, session.key_of(database, request)) if beside else None
        if before is not None and before.project_id != caller.project_id:
            session.change_key(database, request, caller, before)
        else:
            session.begin(database, request, caller.key_id)
        origin = with_origin(caller, request, session.session_id(request))
        audit.record(database, origin, "login.succeeded")
