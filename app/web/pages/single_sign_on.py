"""Sign-in through the identity provider: the way there and back."""

from urllib.parse import quote

from fastapi import Request, Response
from starlette.responses import RedirectResponse

from app.auth import audit, keys
from app.auth.authentication import refuse_guessing
from app.auth.oidc.identity import Identity, SignInRefused
from app.auth.secrets import digest
from app.base.errors import InvalidApiKey, RateLimited, Unavailable
from app.http.dependencies import ServicesDep
from app.http.routes import address_of, with_origin
from app.services import Services
from app.users import service as users
from app.web import pending_sign_ins, session
from app.web.sign_in_view import local_path, sign_in_view
from app.web.visitor import PageRouter

UNKNOWN_STATE = (
    "This sign-in was not begun in this browser, was used already, or took longer than ten "
    "minutes: sign in once more."
)
NO_GROUP = (
    "Your account opens no project here: none of its groups has a scope in one. Ask the "
    "administrator of this service."
)
MAX_ERROR_CHARACTERS = 100

router = PageRouter("/sign-in/oidc")


@router.get("")
def begin_sign_in(services: ServicesDep, request: Request, next: str = "/") -> Response:
    if services.provider is None:
        return RedirectResponse("/sign-in", 303)
    next_page = local_path(next)
    state = pending_sign_ins.begin(request, next_page)
    try:
        url = services.provider.authorization_url(state, _callback_of(request))
    except Unavailable as error:
        return sign_in_view(
            request,
            refused=error.message,
            status_code=error.status,
            next_page=next_page,
        )
    return RedirectResponse(url, 303)


@router.get("/callback")
def finish_sign_in(
    services: ServicesDep, request: Request, code: str = "", state: str = "", error: str = ""
) -> Response:
    """Take the provider's answer. A code opens once, so a request for the head alone does not use
    it.
    """
    if services.provider is None or request.method == "HEAD":
        return RedirectResponse("/sign-in", 303)
    next_page = pending_sign_ins.take(request, state)
    try:
        if next_page is None:
            raise SignInRefused(UNKNOWN_STATE)
        if not code:
            raise SignInRefused(f"The identity provider answered '{error[:MAX_ERROR_CHARACTERS]}'.")
        key_id = users.sign_in(services, _identify(services, request, code, state))
        if key_id is None:
            raise SignInRefused(NO_GROUP)
    except (SignInRefused, RateLimited, Unavailable) as refusal:
        return sign_in_view(request, refused=refusal.message, status_code=refusal.status)
    has_several = _begin(services, request, key_id)
    return RedirectResponse(
        f"/project?next={quote(next_page, safe='')}" if has_several else next_page, 303
    )


def _identify(services: Services, request: Request, code: str, state: str) -> Identity:
    """Exchange the code, unless this address sent many wrong ones: each is a request to the
    provider.
    """
    assert services.provider is not None
    address = address_of(request)
    refuse_guessing(services.failures, address, digest(code))
    try:
        return services.provider.identify(code, state, _callback_of(request))
    except SignInRefused:
        services.failures.record_failure(address)
        raise


def _begin(services: Services, request: Request, key_id: str) -> bool:
    """Begin a session in the first project of a sign-in; return whether there are several."""
    with services.database.transaction() as database:
        callers = keys.sign_in_keys(database, key_id)
        if not callers:
            raise InvalidApiKey("This sign-in was ended meanwhile.")
        first, *others = callers
        session.begin(database, request, first.key_id)
        session.keep_keys(request, {each.key_id: each.project_name for each in others})
        origin = with_origin(first, request, session.session_id(request))
        audit.record(database, origin, "login.succeeded")
    return bool(others)


def _callback_of(request: Request) -> str:
    return f"{str(request.base_url).rstrip('/')}/sign-in/oidc/callback"
