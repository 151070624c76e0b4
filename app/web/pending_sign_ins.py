"""Sign-ins that a browser has begun at the identity provider, in its cookie: an answer counts only
in the browser that asked for it, once, and for ten minutes.
"""

import secrets
import time

from fastapi import Request

PENDING = "pending"  # By their states: the page that follows, and the time of the beginning.
MAX_PENDING = 3  # in several tabs; a cookie has 4 KB
MAX_AGE_SECONDS = 600.0
MAX_NEXT_CHARACTERS = 300


def begin(request: Request, next_page: str) -> str:
    """Return the state of a new sign-in, after which `next_page` is shown."""
    state = secrets.token_urlsafe(24)
    is_short = len(next_page) <= MAX_NEXT_CHARACTERS
    pending = request.session.get(PENDING, {}) | {
        state: [next_page if is_short else "/", int(time.time())]
    }
    request.session[PENDING] = dict(list(pending.items())[-MAX_PENDING:])
    return state


def take(request: Request, state: str) -> str | None:
    """Return the page that follows a sign-in of this browser, and forget it; None if there is none
    with this state.
    """
    pending = dict(request.session.get(PENDING, {}))
    next_page, began_at = pending.pop(state, (None, 0))
    request.session[PENDING] = pending
    is_fresh = time.time() - began_at < MAX_AGE_SECONDS
    return next_page if is_fresh else None
