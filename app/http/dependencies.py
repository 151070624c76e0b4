from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Header, Query, Request, Security
from fastapi.dependencies.models import Dependant
from fastapi.security import HTTPBearer
from starlette.requests import HTTPConnection

from app.auth.caller import Caller
from app.http.storage_limit import storage_turn
from app.models import Scope
from app.services import Services


def get_services(connection: HTTPConnection) -> Services:
    services: Services = connection.app.state.services
    return services


# Those that FastAPI resolves are `async`: one that is not would wait for a thread, several times in
# every request.
async def _services(connection: HTTPConnection) -> Services:
    return get_services(connection)


_bearer = HTTPBearer(
    auto_error=False, description="An API key, as `Authorization: Bearer ft_live_…`"
)


async def _asker(
    request: Request, _documented: Annotated[object, Security(_bearer, scopes=[Scope.INFER])]
) -> Caller:
    caller: Caller = request.state.caller
    caller.must_have(Scope.INFER)
    return caller


async def _reader(
    request: Request, _documented: Annotated[object, Security(_bearer, scopes=[Scope.READ])]
) -> Caller:
    caller: Caller = request.state.caller
    caller.must_have(Scope.READ)
    return caller


async def _writer(
    request: Request, _documented: Annotated[object, Security(_bearer, scopes=[Scope.WRITE])]
) -> Caller:
    caller: Caller = request.state.caller
    caller.must_have(Scope.WRITE)
    return caller


async def _admin(
    request: Request, _documented: Annotated[object, Security(_bearer, scopes=[Scope.ADMIN])]
) -> Caller:
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
After = Annotated[
    str | None, Query(description="id of the last object of the page before", max_length=256)
]
MAX_IDEMPOTENCY_KEY_LENGTH = 255
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=MAX_IDEMPOTENCY_KEY_LENGTH,
        description="the same key again, with the same content, answers with the same object",
    ),
]
ServicesDep = Annotated[Services, Depends(_services)]
Asker = Annotated[Caller, Depends(_asker)]
Reader = Annotated[Caller, Depends(_reader)]
Writer = Annotated[Caller, Depends(_writer)]
Admin = Annotated[Caller, Depends(_admin)]
InstallationAdmin = Annotated[Caller, Depends(_installation_admin)]


def scopes_of(dependant: Dependant) -> list[Scope]:
    """Return the rights that an endpoint asks for, through whatever it depends on."""
    scopes = {
        _asker: Scope.INFER,
        _reader: Scope.READ,
        _writer: Scope.WRITE,
        _admin: Scope.ADMIN,
    }
    own = [scope for call, scope in scopes.items() if dependant.call is call]
    return own + [scope for inner in dependant.dependencies for scope in scopes_of(inner)]
