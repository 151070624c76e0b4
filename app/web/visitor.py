"""Who looks at a page, and what they see when it cannot be shown."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse

from app.auth import keys
from app.auth.caller import Caller
from app.database import AWAY
from app.errors import ApiError, InvalidApiKey, InvalidRequest, Unavailable
from app.http.body_limit import MAX_JSON_BYTES, limited, max_upload_bytes
from app.http.dependencies import ServicesDep, get_services
from app.http.strict_json import StrictRequest, refuse_nul
from app.models import Scope
from app.web.rendering import page
from app.web.session import (
    key_of,
    refuse_forged_forms,
    refuse_forged_requests,
    refuse_other_sites,
)

MAX_FORM_BYTES = 2**14  # a stranger may send one


class PageRoute(APIRoute):
    """Errors are pages too, and who has not signed in is asked to."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle_page(request: Request) -> Response:
            try:
                refuse_nul(request)
                return await handler(await self.admit(request))
            except ApiError as error:
                return _refusal(request, error)
            except RequestValidationError as error:
                fault = error.errors()[0]
                return _refusal(request, InvalidRequest(f"{fault['loc'][-1]}: {fault['msg']}"))
            except AWAY:
                return _refusal(request, Unavailable("The database does not answer just now."))

        return handle_page

    async def admit(self, request: Request) -> Request:
        return request


class UploadPageRoute(PageRoute):
    """Asks who it is before it reads the body, which is as large as a file."""

    async def admit(self, request: Request) -> Request:
        services = get_services(request)
        refuse_other_sites(request)
        (await run_in_threadpool(_visitor, services, request)).must_have(Scope.WRITE)
        return Request(request.scope, limited(request, max_upload_bytes(services.settings), "file"))


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
                StrictRequest(request.scope, limited(request, MAX_JSON_BYTES, None))
            )

        return handle_script


def _refusal(request: Request, error: ApiError) -> Response:
    if isinstance(error, InvalidApiKey):
        came_from = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        is_worth_a_return = request.method == "GET" and came_from != "/"
        return RedirectResponse(
            f"/sign-in?next={quote(came_from, safe='')}" if is_worth_a_return else "/sign-in", 303
        )
    refused = page(request, "error.html", status_code=error.status, error=error)
    refused.headers.update(error.headers)
    return refused


def _visitor(services: ServicesDep, request: Request) -> Caller:
    with services.database.read() as session:
        caller = keys.find_caller(session, key_of(session, request))
    if caller is None:
        raise InvalidApiKey("Sign in first.")
    caller.must_have(Scope.READ)
    return caller


def _writer(caller: Annotated[Caller, Depends(_visitor)]) -> Caller:
    caller.must_have(Scope.WRITE)
    return caller


def _admin(caller: Annotated[Caller, Depends(_visitor)]) -> Caller:
    caller.must_have(Scope.ADMIN)
    return caller


def _installation_admin(caller: Annotated[Caller, Depends(_admin)]) -> Caller:
    caller.must_administer_installation()
    return caller


CHANGES = [Depends(refuse_forged_forms)]  # the dependencies of every route that changes something
Visitor = Annotated[Caller, Depends(_visitor)]
WritingVisitor = Annotated[Caller, Depends(_writer)]
AdminVisitor = Annotated[Caller, Depends(_admin)]
InstallationVisitor = Annotated[Caller, Depends(_installation_admin)]
