import time
from collections.abc import Collection
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.base import counters
from app.base.errors import InvalidRequest
from app.base.ids import new_id
from app.http import error_handlers

RESPONSE_HEADERS = "response_headers"
LOGGED = "logged"
# Headers of responses that are not pages. A browser that guesses the type of the bytes must not
# render them as a page.
SAFE_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}
MAX_LOGGED_CHARACTERS = 300  # maximum for values chosen by a client
UNLOGGED_PATHS = {"/healthz", "/readyz", "/metrics"}

log = structlog.get_logger()


class RequestContext:
    """Outermost middleware: gives the request an id that its log lines and its response carry, and
    turns an uncaught error into a 500.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method = cut(scope["method"])
        path = cut(scope["path"])
        request_id = new_id("req_")
        started = time.monotonic()
        status = 0
        answered = started
        headers: dict[str, str] = {"x-request-id": request_id}
        logged: dict[str, str] = {"address": scope["client"][0] if scope.get("client") else ""}
        # Lets the inner middlewares add the headers of every response.
        scope.setdefault("state", {})[RESPONSE_HEADERS] = headers
        scope["state"][LOGGED] = logged

        async def send_with_id(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status = message["status"]
                answered = time.monotonic()
                names = {name.lower() for name, _ in message["headers"]}
                more = {
                    name: value
                    for name, value in SAFE_HEADERS.items()
                    if name.encode() not in names
                } | headers
                message["headers"] = [
                    *message["headers"],
                    *((name.encode(), value.encode()) for name, value in more.items()),
                ]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, send_with_id)
            except Exception:  # the top-level handler
                log.exception("unhandled error", method=method, path=path)
                if status:
                    # Too late for another response: the connection breaks, and the client sees
                    # that.
                    raise
                await error_handlers.internal_error()(scope, receive, send_with_id)
            finally:
                if status:
                    seconds = answered - started
                    counters.observe_request(scope["method"], route_of(scope), status, seconds)
                write = log.debug if scope["path"] in UNLOGGED_PATHS else log.info
                milliseconds = round((time.monotonic() - started) * 1000, 1)
                write(
                    "request",
                    method=method,
                    path=path,
                    status=status,
                    milliseconds=milliseconds,
                    **logged,
                )


def route_of(scope: Scope) -> str:
    """Return the template of the route that has answered: there are few templates, but any number
    of paths.
    """
    return getattr(scope.get("route"), "path", counters.OTHER)


def cut(text: str) -> str:
    """Truncate a text with a sign that there was more."""
    if len(text) <= MAX_LOGGED_CHARACTERS:
        return text
    return text[:MAX_LOGGED_CHARACTERS] + "…"


class KnownHosts:
    """Refuses requests for any other host name, where some are given: a page of another site whose
    name was bound to our address must not reach this API.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self.app = app
        # A page of another site sends that site's name. Probes and commands on this machine send
        # these.
        self._hosts = {host.lower() for host in hosts} | LOOPBACK_NAMES if hosts else set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._hosts and scope["type"] == "http":
            host = _name(Headers(scope=scope).get("host", ""))
            if host not in self._hosts:
                names = ", ".join(sorted(self._hosts))
                message = (
                    f"This service does not accept the host name {host!r}. "
                    f"It accepts {names}; FALQON_HOSTS adds others."
                )
                await error_handlers.answer(
                    InvalidRequest(message, param="host", code="unknown_host")
                )(scope, receive, send)
                return
        await self.app(scope, receive, send)


class TrailingSlashes:
    """Middleware that removes a slash at the end of an API address: clients join addresses in both
    ways.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/v1/"):
            scope["path"] = scope["path"].removesuffix("/")
        await self.app(scope, receive, send)


def _name(host: str) -> str:
    """Return it without port and brackets, in small letters; empty when it cannot be read."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
