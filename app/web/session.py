"""The dashboard's cookie: it holds the id of an API key, signed, and nothing else. `/v1` never looks at it."""

import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import Request
from starlette.middleware.sessions import SessionMiddleware
from starlette.types import ASGIApp

from app.errors import Forbidden
from app.settings import Settings

KEY_ID = "key_id"


class CookieSessions(SessionMiddleware):
    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        super().__init__(app, secret_key=_secret(settings), session_cookie="falqon_session", same_site="lax")


def refuse_other_sites(request: Request) -> None:
    """A form of another site must not act with this one's cookie."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin", "")
    # Browsers before 2023 say only where a form came from.
    same = site == "same-origin" if site is not None else urlsplit(origin).netloc == request.headers.get("host")
    if not same:
        raise Forbidden("This form may only be sent from this site.", code="cross_site")


def _secret(settings: Settings) -> str:
    if settings.session_secret is not None:
        return settings.session_secret.get_secret_value()
    path = settings.data_dir / "session_secret"
    path.parent.mkdir(parents=True, exist_ok=True)
    return _read(path) if path.exists() else _create(path)


def _create(path: Path) -> str:
    draft = path.with_suffix(f".{os.getpid()}")
    draft.touch(mode=0o600)
    draft.write_text(secrets.token_urlsafe(32))
    try:
        os.link(draft, path)  # fails if another process was quicker; its secret then counts
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return _read(path)


def _read(path: Path) -> str:
    return path.read_text().strip()
