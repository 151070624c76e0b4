"""Have a model answer a question: for the API, and for the dashboard's playground."""

from functools import partial
from typing import Annotated

import httpx
from anyio.to_thread import run_sync
from fastapi import Depends, Request, Response
from starlette.requests import HTTPConnection

from app.auth.caller import Caller
from app.http.rates import enforce_rate, state_rate
from app.inference import actions, proxy
from app.inference.schemas import InferenceRequest
from app.services import Services


async def _engines(connection: HTTPConnection) -> httpx.AsyncClient:
    client: httpx.AsyncClient = connection.app.state.engines
    return client


Engines = Annotated[httpx.AsyncClient, Depends(_engines)]


async def answer(
    services: Services,
    engines: httpx.AsyncClient,
    caller: Caller,
    request: Request,
    body: InferenceRequest,
) -> Response:
    """Return the answer of the model's engine, once that is ready. What it took counts against
    the caller's key; raises `RateLimited` where that has no tokens left.
    """
    enforce_rate(request, await run_sync(services.limiter.use_tokens, caller.key_id))
    body = body.model_copy(update={"model": services.settings.model_named(body.model)})
    target = await actions.find_target(services, caller, body.model)

    def charge(num_tokens: int) -> None:
        state_rate(request, services.limiter.use_tokens(caller.key_id, num_tokens))

    calls = proxy.Calls(
        partial(actions.note_use, services, target),
        partial(actions.give_up, services, target),
        charge,
    )
    return await proxy.ask(engines, target, request, body, calls)
