"""Have a model answer a question: for the API, and for the dashboard's playground."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Annotated, NamedTuple

import httpx
from fastapi import Depends, Request, Response
from starlette.requests import HTTPConnection

from app.auth.caller import Caller
from app.base.errors import Unavailable
from app.http.rates import enforce_tokens, state_rate
from app.inference import actions, proxy
from app.inference.known_targets import KnownTargets
from app.inference.schemas import InferenceRequest
from app.inference.service import Target
from app.services import Services


class Engines(NamedTuple):
    """What an API process asks engines with."""

    client: httpx.AsyncClient
    targets: KnownTargets


async def _engines(connection: HTTPConnection) -> Engines:
    engines: Engines = connection.app.state.engines
    return engines


EnginesDep = Annotated[Engines, Depends(_engines)]


@asynccontextmanager
async def open_engines() -> AsyncIterator[Engines]:
    async with proxy.make_client() as client:
        yield Engines(client, KnownTargets())


async def answer(
    services: Services,
    engines: Engines,
    caller: Caller,
    request: Request,
    body: InferenceRequest,
) -> Response:
    """Return the answer of the model's engine, once that is ready. What it took counts against
    the caller's key; raises `RateLimited` where that has no tokens left.
    """
    enforce_tokens(request)
    body = body.model_copy(update={"model": services.settings.model_named(body.model)})
    of_caller = (caller.project_id, body.model)

    def charge(num_tokens: int) -> None:
        state_rate(request, services.limiter.use_tokens(caller.key_id, num_tokens))

    async def ask(target: Target) -> Response:
        def give_up() -> None:
            engines.targets.forget(*of_caller)
            actions.give_up(services, target)

        calls = proxy.Calls(partial(actions.note_use, services, target), give_up, charge)
        return await proxy.ask(engines.client, target, request, body, calls)

    target = engines.targets.find(*of_caller)
    if target is not None:
        with suppress(Unavailable):  # it has gone since it was looked up
            return await ask(target)
    target = await actions.find_target(services, caller, body.model)
    engines.targets.keep(*of_caller, target)
    return await ask(target)
