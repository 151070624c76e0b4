from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Header, Query, Request, Security
from fastapi.dependencies.models import Dependant
from fastapi.security import HTTPBearer
from starlette.requests import HTTPConnection

from app.auth.caller import Caller
from app.http.storage_limit import touches_storage
from app.models import DEFAULT_PROJECT_ID, Scope
from app.services import Services


def get_services(connection: HTTPConnection) -> Services:
    services: Services = connection.app.state.services
    return services


# Dependencies that FastAPI resolves are `async`: a plain function would wait for a thread, several
# times in every request.
async def _services(connection: HTTPConnection) -> Services:
    return get_services(connection)


_bearer = HTTPBearer(
    auto_error=False, description="An API key, as `Authorization: Bearer ft_live_…`"
)


def _caller_with(scope: Scope) -> Callable[..., Awaitable[Caller]]:
    """Return the dependency of endpoints that require this right."""

    async def caller_with(
        request: Request, _documented: Annotated[object, Security(_bearer, scopes=[scope])]
    ) -> Caller:
        caller: Caller = request.state.caller
        caller.must_have(scope)
        return caller

    return caller_with


_CALLERS = {scope: _caller_with(scope) for scope in Scope}


async def _installation_admin(caller: Annotated[Caller, Depends(_CALLERS[Scope.ADMIN])]) -> Caller:
    caller.must_administer_installation()
    return caller


async def _metrics_reader(
    caller: Annotated[Caller, Depends(_CALLERS[Scope.METRICS])],
) -> Caller:
    """Return an admin of the installation, or a key of its project that reads metrics alone."""
    if caller.scope is not Scope.METRICS or caller.project_id != DEFAULT_PROJECT_ID:
        caller.must_administer_installation()
    return caller


async def _project_of(request: Request) -> str:
    caller: Caller = request.state.caller
    return caller.project_id


TOUCHES_STORAGE = touches_storage(_project_of)
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
RetryCount = Annotated[int, Header(alias="x-stainless-retry-count", ge=0, include_in_schema=False)]
ServicesDep = Annotated[Services, Depends(_services)]
InferenceCaller = Annotated[Caller, Depends(_CALLERS[Scope.INFER])]
Reader = Annotated[Caller, Depends(_CALLERS[Scope.READ])]
Agent = Annotated[Caller, Depends(_CALLERS[Scope.AGENT])]
Writer = Annotated[Caller, Depends(_CALLERS[Scope.WRITE])]
Admin = Annotated[Caller, Depends(_CALLERS[Scope.ADMIN])]
MetricsReader = Annotated[Caller, Depends(_metrics_reader)]
InstallationAdmin = Annotated[Caller, Depends(_installation_admin)]


def scopes_of(dependant: Dependant) -> list[Scope]:
    """Return the rights that an endpoint requires, through all of its dependencies."""
    own = [scope for scope, call in _CALLERS.items() if dependant.call is call]
    return own + [scope for inner in dependant.dependencies for scope in scopes_of(inner)]
