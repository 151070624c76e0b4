"""The dashboard's cookie: it holds the id of an API key, signed, and nothing else. `/v1` never looks at it."""

from urllib.parse import urlsplit

from fastapi import Request
from starlette.middleware.sessions import SessionMiddleware
from starlette.types import ASGIApp

from app.errors import Forbidden
from app.server_secret import server_secret
from app.settings import Settings

KEY_ID = "key_id"


class CookieSessions(SessionMiddleware):
    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        super().__init__(app, secret_key=server_secret(settings), session_cookie="falqon_session", same_site="lax")


def refuse_other_sites(request: Request) -> None:
    """A form of another site must not act with this one's cookie."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin", "")
    # Browsers before 2023 say only where a form came from.
    same = site == "same-origin" if site is not None else urlsplit(origin).netloc == request.headers.get("host")
    if not same:
        raise Forbidden("This form may only be sent from this site.", code="cross_site")
