"""The dashboard's cookie: signed, it holds the ids of a session and of an API key, a token for
forms, and what the next page shall say; and the ids of keys of other projects, to go there without
another sign-in. `/v1` never reads it.
"""

import secrets
from collections.abc import Mapping
from hmac import compare_digest
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Form, Request
from sqlalchemy import delete
from sqlalchemy.orm import Session
from starlette.middleware.sessions import SessionMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from app.auth.caller import Caller
from app.auth.server_secret import server_secret
from app.base.database import insert_or, now_plus
from app.base.errors import Forbidden, InvalidApiKey
from app.base.ids import new_id
from app.base.settings import Settings
from app.models import EndedSession

SESSION_ID = "session_id"
KEY_ID = "key_id"
OTHER_KEYS = "other_keys"  # By the name of their project.
MAX_OTHER_KEYS = 8  # a cookie has 4 KB
MAX_NAME_BYTES = 64
FORM_TOKEN = "form_token"
NOTICE = "notice"
TOKEN_HEADER = "x-form-token"
STALE_FORM = "stale_form"  # Error code of a form whose session has been replaced.
SESSION_COOKIE = "falqon_session"
MAX_AGE_SECONDS = 14 * 86_400  # Age since it was last signed.
MAX_NOTICE_BYTES = 500


class CookieSessions:
    """Over https the cookie is one that no other host and no plain http can set, and none else is
    read.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        secret = server_secret(settings)
        self._plain = SessionMiddleware(
            app, secret, max_age=MAX_AGE_SECONDS, session_cookie=SESSION_COOKIE, same_site="lax"
        )
        self._secure = SessionMiddleware(
            app,
            secret,
            max_age=MAX_AGE_SECONDS,
            session_cookie=f"__Host-{SESSION_COOKIE}",
            same_site="lax",
            https_only=True,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sessions = self._secure if scope.get("scheme") == "https" else self._plain
        await sessions(scope, receive, send)


def begin(database: Session, request: Request, key_id: str) -> None:
    """Begin a session, and forget those that ended so long ago that no cookie of theirs is read."""
    database.execute(delete(EndedSession).where(EndedSession.ended_at < now_plus(-MAX_AGE_SECONDS)))
    request.session.clear()
    request.session.update(
        {SESSION_ID: new_id("sess_"), KEY_ID: key_id, FORM_TOKEN: secrets.token_urlsafe(24)}
    )


def session_id(request: Request) -> str | None:
    return request.session.get(SESSION_ID)


def other_keys(request: Request) -> dict[str, str]:
    """Return the ids of the session's other keys, with the names of their projects."""
    return dict(request.session.get(OTHER_KEYS, {}))


def change_key(database: Session, request: Request, now: Caller, before: Caller) -> None:
    """Go on with another key, and keep the one before for the way back. It is a new session: forms
    of the pages of the other project are out of date.
    """
    kept = other_keys(request) | {before.key_id: before.project_name}
    kept.pop(now.key_id, None)
    end(database, request)
    begin(database, request, now.key_id)
    keep_keys(request, kept)


def keep_keys(request: Request, keys: Mapping[str, str]) -> None:
    """Keep the last of these other keys, with the names of their projects."""
    request.session[OTHER_KEYS] = {
        id_: _cut(name, MAX_NAME_BYTES) for id_, name in list(keys.items())[-MAX_OTHER_KEYS:]
    }


def forget_key(request: Request, key_id: str) -> None:
    request.session[OTHER_KEYS] = {
        id_: name for id_, name in other_keys(request).items() if id_ != key_id
    }


def key_of(database: Session, request: Request) -> str:
    """Find the id of the key that this session was begun with; empty where there is none, or it was
    ended.
    """
    id_ = session_id(request)
    if not id_ or database.get(EndedSession, id_) is not None:
        return ""
    return str(request.session.get(KEY_ID, ""))


def end(database: Session, request: Request) -> None:
    """Make its cookie worthless, of which anybody may have kept a copy."""
    if id_ := session_id(request):
        ended = insert_or(database, EndedSession).values(id=id_, ended_at=now_plus())
        database.execute(ended.on_conflict_do_nothing())
    request.session.clear()


def form_token(request: Request) -> str:
    """Return the token that every form with effects carries; empty for a visitor without a
    session.
    """
    return str(request.session.get(FORM_TOKEN, ""))


def notify(request: Request, text: str, *, failed: bool = False) -> None:
    """Let the next page say so, once."""
    request.session[NOTICE] = {"text": _cut(text, MAX_NOTICE_BYTES), "failed": failed}


def refuse_other_sites(request: Request) -> None:
    """Refuse a form of another site, which must not act with this one's cookie."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin", "")
    # Browsers before 2023 say only where a form came from.
    same = (
        site == "same-origin"
        if site is not None
        else urlsplit(origin).netloc == request.headers.get("host")
    )
    if not same:
        raise Forbidden("This form may only be sent from this site.", code="cross_site")


async def refuse_forged_forms(request: Request, csrf: Annotated[str, Form()] = "") -> None:
    """Refuse a form of a page that this session was not given."""
    refuse_other_sites(request)
    _refuse_wrong_token(request, csrf)


def refuse_forged_requests(request: Request) -> None:
    """Refuse what no script of a page sends that this session was given."""
    refuse_other_sites(request)
    _refuse_wrong_token(request, request.headers.get(TOKEN_HEADER, ""))


def _cut(text: str, num_bytes: int) -> str:
    return text.encode()[:num_bytes].decode(errors="ignore")


def _refuse_wrong_token(request: Request, token: str) -> None:
    if not form_token(request):
        raise InvalidApiKey("Sign in first.")
    if not compare_digest(form_token(request).encode(), token.encode()) or not token:
        raise Forbidden(
            "This form is out of date: load the page again and send it once more.",
            code=STALE_FORM,
        )
