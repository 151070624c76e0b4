"""The dashboard's cookie: it holds the id of an API key, signed, and nothing else. `/v1` never looks at it."""

from urllib.parse import urlsplit

from fastapi import Request
from starlette.middleware.sessions import SessionMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import Forbidden
from app.server_secret import server_secret
from app.settings import Settings

KEY_ID = "key_id"
COOKIE = "falqon_session"


class CookieSessions:
    """Over https the cookie is one that no other host and no plain http can set, and none else is read."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        secret = server_secret(settings)
        self._plain = SessionMiddleware(app, secret, session_cookie=COOKIE, same_site="lax")
        self._secure = SessionMiddleware(app, secret, session_cookie=f"__Host-{COOKIE}", same_site="lax", https_only=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sessions = self._secure if scope.get("scheme") == "https" else self._plain
        await sessions(scope, receive, send)


def refuse_other_sites(request: Request) -> None:
    """A form of another site must not act with this one's cookie."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin", "")
    # Browsers before 2023 say only where a form came from.
    same = site == "same-origin" if site is not None else urlsplit(origin).netloc == request.headers.get("host")
    if not same:
        raise Forbidden("This form may only be sent from this site.", code="cross_site")
