import math
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response, Security
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from redis import Redis
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Message, Receive

from app.auth import secrets
from app.auth.caller import Caller
from app.auth.failures import Failures
from app.auth.rate_limit import RateLimiter
from app.catalogue.listing import ModelLists
from app.database import Database
from app.errors import InvalidApiKey, RateLimited, TooLarge, UnsupportedEncoding
from app.http.middleware import LOGGED, RESPONSE_HEADERS
from app.http.probes import HealthMonitor
from app.http.storage_limit import storage_turn
from app.http.strict_json import StrictRequest, refuse_nul
from app.keys import service as keys
from app.models import Scope
from app.notifier.broker import Notifier
from app.settings import Settings
from app.storage import Storage
from app.stream.wakeup import Wakeups

MAX_JSON_BYTES = 2**20
MULTIPART_OVERHEAD_BYTES = 2**16


@dataclass(frozen=True)
class Services:
    """What one API process holds, made in its lifespan."""

    settings: Settings
    database: Database
    storage: Storage
    notifier: Notifier
    redis: Redis
    limiter: RateLimiter
    failures: Failures
    wakeups: Wakeups
    health: HealthMonitor
    model_lists: ModelLists = field(default_factory=ModelLists)


def services(connection: HTTPConnection) -> Services:
    found: Services = connection.app.state.services
    return found


class ApiRoute(APIRoute):
    """Asks for the key and its right, and looks at the size, before it reads the body.

    A stranger can make us neither parse nor store anything.
    """

    body_param: str | None = None  # what makes a body large, where one field does

    def max_body_bytes(self, settings: Settings) -> int:
        return MAX_JSON_BYTES

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        scopes = _scopes(self.dependant)

        async def guarded(request: Request) -> Response:
            held = services(request)
            request.state.caller = caller = await run_in_threadpool(_admit, held, request)
            for scope in scopes:
                caller.must_have(scope)
            receive = limited(request, self.max_body_bytes(held.settings), self.body_param)
            refuse_nul(request)
            return await handler(StrictRequest(request.scope, receive))

        return guarded


class UploadRoute(ApiRoute):
    body_param = "file"

    def max_body_bytes(self, settings: Settings) -> int:
        return max_upload_bytes(settings)


# Those that FastAPI resolves are `async`: one that is not would wait for a thread, several times in every request.
async def _services(connection: HTTPConnection) -> Services:
    return services(connection)


_bearer = HTTPBearer(auto_error=False, description="An API key, as `Authorization: Bearer ft_live_…`")


async def _reader(request: Request, _documented: Annotated[object, Security(_bearer, scopes=[Scope.READ])]) -> Caller:
    caller: Caller = request.state.caller
    caller.must_have(Scope.READ)
    return caller


async def _writer(request: Request, _documented: Annotated[object, Security(_bearer, scopes=[Scope.WRITE])]) -> Caller:
    caller: Caller = request.state.caller
    caller.must_have(Scope.WRITE)
    return caller


async def _admin(request: Request, _documented: Annotated[object, Security(_bearer, scopes=[Scope.ADMIN])]) -> Caller:
    caller: Caller = request.state.caller
    caller.must_have(Scope.ADMIN)
    return caller


async def _installation_admin(caller: Annotated[Caller, Depends(_admin)]) -> Caller:
    caller.must_administer_installation()
    return caller


async def _storage_turn() -> AsyncIterator[None]:
    async with storage_turn():
        yield


# Of every route whose function reads or writes the storage. It ends with that function, so a slow
# client holds no turn: the body was read before, and the answer is sent after.
TOUCHES_STORAGE = [Depends(_storage_turn, scope="function")]
After = Annotated[str | None, Query(description="id of the last object of the page before", max_length=256)]
App = Annotated[Services, Depends(_services)]
Reader = Annotated[Caller, Depends(_reader)]
Writer = Annotated[Caller, Depends(_writer)]
Admin = Annotated[Caller, Depends(_admin)]
InstallationAdmin = Annotated[Caller, Depends(_installation_admin)]


def _scopes(dependant: Dependant) -> list[Scope]:
    """Return the rights that an endpoint asks for, through whatever it depends on."""
    needed = {_reader: Scope.READ, _writer: Scope.WRITE, _admin: Scope.ADMIN}
    own = [scope for call, scope in needed.items() if dependant.call is call]
    return own + [scope for inner in dependant.dependencies for scope in _scopes(inner)]


def _admit(held: Services, request: Request) -> Caller:
    kind, _, secret = request.headers.get("authorization", "").partition(" ")
    caller = authenticate(held, address_of(request), secret.strip() if kind.lower() == "bearer" else "")
    request.scope["state"][LOGGED] |= {"key_id": caller.key_id, "project_id": caller.project_id}
    caller.must_mean(request.headers.get("openai-project"))
    answer = held.limiter.take(caller.key_id, caller.requests_per_minute)
    if answer is not None:
        request.scope["state"][RESPONSE_HEADERS].update(answer.headers)
        if answer.wait_seconds:
            raise RateLimited(
                f"This API key may make {answer.capacity} requests a minute; the next one in {answer.wait_seconds:.3f} s.",
                headers=answer.retry_headers,
            )
    return caller


def authenticate(held: Services, address: str, secret: str) -> Caller:
    """Raises `InvalidApiKey`, and `RateLimited` where it has been raised often for this address."""
    digest = secrets.digest(secret)
    if wait := held.failures.wait_seconds(address, digest):
        headers = {"retry-after": str(math.ceil(wait))}
        raise RateLimited(f"Too many wrong API keys from this address; try again in {math.ceil(wait)} s.", headers=headers)
    try:
        if not secret:
            raise InvalidApiKey("You didn't provide an API key. Send it as a header: Authorization: Bearer YOUR_KEY")
        with held.database.read() as session:
            caller = keys.authenticate(session, secret)
    except InvalidApiKey:
        held.failures.failed(address)
        raise
    held.failures.opened(digest)
    if caller.use_is_due:
        with held.database.transaction() as session:
            keys.note_use(session, caller)
    return caller


def address_of(connection: HTTPConnection) -> str:
    return connection.client.host if connection.client else ""


def max_upload_bytes(settings: Settings) -> int:
    """A file, and the form around it."""
    return settings.max_file_bytes + MULTIPART_OVERHEAD_BYTES


def limited(request: Request, limit: int, param: str | None) -> Receive:
    """What the body is read from: no more than `limit` bytes of it, uncompressed."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedEncoding("content-encoding: the body must come as it is, not compressed.", param="content-encoding")
    error = TooLarge(f"The request body is larger than {limit} bytes, the limit for this call.", param=param)
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > limit:
        raise error
    return _counted(request.receive, limit, error)


def _counted(receive: Receive, limit: int, error: TooLarge) -> Receive:
    """For bodies that do not say their length."""
    total = 0

    async def counted() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > limit:
            raise HTTPException(error.status) from error  # FastAPI lets only this kind pass out of body parsing
        return message

    return counted
