"""Route for workers that reach only the API: their tokens grant access, and no API key does."""

import re
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from app.auth import secrets, worker_tokens
from app.auth.authentication import refuse_guessing
from app.base.errors import InvalidApiKey, InvalidRequest
from app.http.body_limit import limit_body
from app.http.dependencies import get_services
from app.http.middleware import LOGGED
from app.http.routes import address_of, secret_of
from app.http.storage_limit import touches_storage
from app.http.strict_json import StrictRequest, refuse_nul
from app.services import Services

WORKER_HEADER = "falqon-worker"
WORKER_PATTERN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,99})-([A-Za-z0-9]{1,64})")
MAX_CALL_BYTES = 64 * 2**20  # room for the events buffered while the service was unavailable
MAX_OBJECT_BYTES = 2**40


@dataclass(frozen=True, slots=True)
class WorkerCaller:
    """`owner` names the worker in its claims; it holds the id of the token, so that no other token
    can speak for it.
    """

    project_ids: Sequence[str]
    token_id: str
    owner: str


class _WorkerRequest(StrictRequest):
    max_values = 2_000_000  # room for a thousand events


class WorkerRoute(APIRoute):
    """Route that checks the token before it reads the body."""

    max_body_bytes = MAX_CALL_BYTES

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            services = get_services(request)
            request.state.worker = await run_in_threadpool(_admit, services, request)
            receive = limit_body(request, self.max_body_bytes, None)
            refuse_nul(request)
            return await handler(_WorkerRequest(request.scope, receive))

        return guarded


class ObjectRoute(WorkerRoute):
    max_body_bytes = MAX_OBJECT_BYTES


async def _worker(request: Request) -> WorkerCaller:
    worker: WorkerCaller = request.state.worker
    return worker


WorkerDep = Annotated[WorkerCaller, Depends(_worker)]


async def _token_of(worker: WorkerDep) -> str:
    return worker.token_id


TOUCHES_STORAGE = touches_storage(_token_of)


def check_token(services: Services, request: Request) -> None:
    """Raise `InvalidApiKey` if the token has been revoked since the call began."""
    with services.database.look_up() as session:
        worker_tokens.check_secret(session, secret_of(request))


def _admit(services: Services, request: Request) -> WorkerCaller:
    address, secret = address_of(request), secret_of(request)
    digest = secrets.digest(secret)
    refuse_guessing(services.failures, address, digest)
    try:
        with services.database.look_up() as session:
            token = worker_tokens.check_secret(session, secret)
    except InvalidApiKey:
        services.failures.record_failure(address)
        raise
    services.failures.record_success(digest)
    name = WORKER_PATTERN.fullmatch(request.headers.get(WORKER_HEADER, ""))
    if name is None:
        raise InvalidRequest(f"{WORKER_HEADER}: not <machine>-<process>.", param=WORKER_HEADER)
    worker = WorkerCaller(token.project_ids, token.id, f"{name[1]}.{token.id}-{name[2]}")
    request.scope["state"][LOGGED] |= {"worker": worker.owner}
    return worker
