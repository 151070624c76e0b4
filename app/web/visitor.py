"""The visitor of a page, and the pages for errors and for visitors without access."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any
from urllib.parse import quote

import structlog
from fastapi import APIRouter, Depends, Request, Response, params
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.types import DecoratedCallable
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse

from app.auth import keys
from app.auth.caller import Caller
from app.base.database import DATABASE_UNAVAILABLE_ERRORS
from app.base.errors import ApiError, InvalidApiKey, Unavailable
from app.base.storage import StorageUnavailable
from app.files import service as files
from app.http import error_handlers
from app.http.body_limit import (
    MAX_JSON_BYTES,
    declared_file_bytes,
    limit_body,
    max_upload_bytes,
)
from app.http.dependencies import ServicesDep, get_services
from app.http.routes import with_origin
from app.http.storage_limit import touches_storage
from app.http.strict_json import StrictRequest, refuse_nul
from app.models import Scope
from app.web.plain_words import refusal_in_plain_words
from app.web.rendering import page
from app.web.session import (
    STALE_FORM,
    form_token,
    key_of,
    refuse_forged_forms,
    refuse_forged_requests,
    refuse_other_sites,
    session_id,
)

MAX_FORM_BYTES = 2**14  # Limit of a form from a visitor without a session.
FORM_SCRIPT = "x-form-script"  # Header of a form that a script sends: "send", or "repeat".
NEXT_PAGE = "x-next-page"

log = structlog.get_logger()


class PageRoute(APIRoute):
    """Errors are pages too, and a visitor without a session is asked to sign in. What can be read
    can be asked for its head alone, as those do that watch whether a page is there. The script that
    sends a form gets the address of the next page, or the message alone, so that its own page
    stays.
    """

    keeps_forms = True  # The typed text survives the end of its session.

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.methods and "GET" in self.methods:
            self.methods.add("HEAD")

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle_page(request: Request) -> Response:
            try:
                refuse_nul(request)
                answer = await handler(await self.admit(request))
            except ApiError as error:
                return await self.refuse(request, error)
            except RequestValidationError as error:
                return await self.refuse(request, refusal_in_plain_words(error.errors()[0]))
            except DATABASE_UNAVAILABLE_ERRORS:
                return await self.refuse(
                    request, Unavailable("The database does not answer just now.")
                )
            except StorageUnavailable as error:
                log.error("storage failed", error=str(error))
                message = "The storage does not answer just now."
                return await self.refuse(request, Unavailable(message, code="storage_unavailable"))
            if FORM_SCRIPT in request.headers and answer.status_code == 303:
                return Response(status_code=204, headers={NEXT_PAGE: answer.headers["location"]})
            return answer

        return handle_page

    async def admit(self, request: Request) -> Request:
        return request

    async def refuse(self, request: Request, error: ApiError) -> Response:
        is_of_no_session = isinstance(error, InvalidApiKey) or error.code == STALE_FORM
        if FORM_SCRIPT in request.headers or (is_of_no_session and is_of_script(request)):
            return error_handlers.answer(error)
        if is_of_no_session and request.method == "POST" and self.keeps_forms:
            return await _offer_again(request, error)
        if isinstance(error, InvalidApiKey):
            return _lead_to_sign_in(request)
        return await error_page(request, error)


class UploadPageRoute(PageRoute):
    """Asks who it is before it reads the body, which is as large as a file."""

    keeps_forms = False

    async def admit(self, request: Request) -> Request:
        services = get_services(request)
        refuse_other_sites(request)
        caller = await run_in_threadpool(_visitor, services, request)
        caller.must_have(Scope.WRITE)
        receive = limit_body(request, max_upload_bytes(services.settings), "file")
        if num_bytes := declared_file_bytes(request):
            await run_in_threadpool(files.admit_file, services, caller, num_bytes)
        return Request(request.scope, receive)


class ScriptRoute(APIRoute):
    """Takes JSON from the script of a page and answers as the API does. Asks who it is before it
    reads the body.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle_script(request: Request) -> Response:
            await run_in_threadpool(_visitor, get_services(request), request)
            refuse_forged_requests(request)
            return await handler(
                StrictRequest(request.scope, limit_body(request, MAX_JSON_BYTES, None))
            )

        return handle_script


def is_of_script(request: Request) -> bool:
    """Return True if a script of a page made the request; it shows no page that comes as an
    answer.
    """
    return (
        "hx-request" in request.headers
        or request.headers.get("sec-fetch-mode", "navigate") != "navigate"
    )


async def error_page(request: Request, error: ApiError) -> Response:
    """Show what is wrong, with the navigation if the visitor has signed in."""
    caller = await run_in_threadpool(_find_caller, request)
    refused = page(request, "error.html", caller, status_code=error.status, error=error)
    refused.headers.update(error.headers)
    return refused


def _lead_to_sign_in(request: Request) -> Response:
    came_from = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    is_worth_a_return = request.method in ("GET", "HEAD") and came_from != "/"
    return RedirectResponse(
        f"/sign-in?next={quote(came_from, safe='')}" if is_worth_a_return else "/sign-in", 303
    )


async def _offer_again(request: Request, error: ApiError) -> Response:
    """Keep what was typed on a page that sends it again, once somebody has signed in and wants it:
    nothing is done in the name of a session that it was not typed in.
    """
    caller = await run_in_threadpool(_find_caller, request)
    form = await request.form()
    kept = [
        (name, text)
        for name, text in form.multi_items()
        if isinstance(text, str) and name != "csrf"
    ]
    address = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    token = form_token(request) if caller else ""
    context = {"kept": kept, "address": address, "csrf": token}
    return page(request, "again.html", caller, status_code=error.status, **context)


def _find_caller(request: Request) -> Caller | None:
    """Return the caller of the session, for a page that everyone may see."""
    try:
        with get_services(request).database.read() as session:
            return keys.find_caller(session, key_of(session, request))
    except DATABASE_UNAVAILABLE_ERRORS:
        return None


def _visitor(services: ServicesDep, request: Request) -> Caller:
    with services.database.read() as session:
        caller = keys.find_caller(session, key_of(session, request))
    if caller is None:
        raise InvalidApiKey("Sign in first.")
    caller.must_have(Scope.READ)
    return with_origin(caller, request, session_id(request))


def _writer(caller: Annotated[Caller, Depends(_visitor)]) -> Caller:
    caller.must_have(Scope.WRITE)
    return caller


def _admin(caller: Annotated[Caller, Depends(_visitor)]) -> Caller:
    caller.must_have(Scope.ADMIN)
    return caller


def _installation_admin(caller: Annotated[Caller, Depends(_admin)]) -> Caller:
    caller.must_administer_installation()
    return caller


CHANGES = [Depends(refuse_forged_forms)]  # Dependencies of every route that changes something.


class PageRouter(APIRouter):
    """The routes of pages, and with `change` of the forms that they send."""

    def __init__(self, prefix: str = "") -> None:
        super().__init__(prefix=prefix, route_class=PageRoute)

    def change(
        self, path: str, *dependencies: params.Depends, max_body_size: int = MAX_FORM_BYTES
    ) -> Callable[[DecoratedCallable], DecoratedCallable]:
        return self.post(path, max_body_size=max_body_size, dependencies=[*CHANGES, *dependencies])


Visitor = Annotated[Caller, Depends(_visitor)]


async def _project_of(caller: Visitor) -> str:
    return caller.project_id


TOUCHES_STORAGE = touches_storage(_project_of)
WritingVisitor = Annotated[Caller, Depends(_writer)]
AdminVisitor = Annotated[Caller, Depends(_admin)]
InstallationVisitor = Annotated[Caller, Depends(_installation_admin)]
