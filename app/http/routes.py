from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from structlog.contextvars import get_contextvars

from app.auth.authentication import authenticate
from app.auth.caller import Caller
from app.base.settings import Settings
from app.http.body_limit import MAX_JSON_BYTES, limit_body, max_upload_bytes
from app.http.dependencies import get_services, scopes_of
from app.http.middleware import LOGGED
from app.http.rates import enforce_requests
from app.http.strict_json import StrictRequest, TokenRequest, refuse_nul
from app.services import Services


class ApiRoute(APIRoute):
    """Route that checks the API key, its right and the size before it reads the body.

    An unauthenticated client can make us neither parse nor store anything.
    """

    request_class: type[StrictRequest] = StrictRequest
    body_param: str | None = None  # field that makes a body large, if there is one

    def max_body_bytes(self, settings: Settings) -> int:
        return MAX_JSON_BYTES

    async def admit_body(self, services: Services, caller: Caller, request: Request) -> None:
        """Raise an error if a body of the declared length is not to be read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        scopes = scopes_of(self.dependant)

        async def guarded(request: Request) -> Response:
            services = get_services(request)
            request.state.caller = caller = await run_in_threadpool(admit, services, request)
            for scope in scopes:
                caller.must_have(scope)
            receive = limit_body(request, self.max_body_bytes(services.settings), self.body_param)
            refuse_nul(request)
            await self.admit_body(services, caller, request)
            return await handler(self.request_class(request.scope, receive))

        return guarded


class TokenRoute(ApiRoute):
    request_class = TokenRequest


class UploadRoute(ApiRoute):
    body_param = "file"

    def max_body_bytes(self, settings: Settings) -> int:
        return max_upload_bytes(settings)


def address_of(connection: HTTPConnection) -> str:
    if connection.client:
        return connection.client.host
    return ""


def with_origin(caller: Caller, request: Request, session_id: str | None = None) -> Caller:
    """Add the origin of a request to the caller, for the audit log."""
    request_id = str(get_contextvars().get("request_id", ""))
    return replace(
        caller, request_id=request_id, address=address_of(request), session_id=session_id
    )


def admit(services: Services, request: Request) -> Caller:
    """Return the caller, and count the request. Raises one of our errors if the caller has no
    access.
    """
    caller = authenticate(
        services.database, services.failures, address_of(request), secret_of(request)
    )
    caller = with_origin(caller, request)
    request.scope["state"][LOGGED] |= {"key_id": caller.key_id, "project_id": caller.project_id}
    caller.must_mean(request.headers.get("openai-project"))
    enforce_requests(request, services.limiter.take(caller.key_id, caller.requests_per_minute))
    return caller


def secret_of(request: Request) -> str:
    kind, _, secret = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return secret.strip()
    return ""
