"""Embeddings of texts, where another server has a model for them: the upstream of a name, or an
engine of the operator's own. Models here write text.
"""

import json
import time
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from app.auth.caller import Caller
from app.base.errors import NotFound
from app.http.not_served import NOT_SERVED
from app.http.rates import enforce_tokens, state_rate
from app.inference import proxy, service
from app.inference.answers import (
    STICKY_HEADER,
    Engines,
    counted_failures,
    find_targets,
    refuse_agents,
)
from app.inference.known_aliases import choose
from app.inference.questions import BYTES_OF_A_TOKEN
from app.inference.schemas import AnyPrompt, check_prompt
from app.inference.usage import Bill, UsageTally
from app.models.alias import is_upstream
from app.services import Services
from app.usage.questions import QuestionCount, QuestionKey

PATH = "/v1/embeddings"
MAX_INPUTS = 2048  # as at OpenAI


def _check_input(value: Any) -> Any:
    return check_prompt(value, MAX_INPUTS)


Input = Annotated[AnyPrompt, BeforeValidator(_check_input)]


class EmbeddingRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    model: Annotated[str, Field(min_length=1, max_length=512)]
    input: Annotated[Input, Field(description="a text, token ids, or up to 2,048 of either")]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int | None, Field(ge=1, le=65_536)] = None
    user: Annotated[str | None, Field(description="stays with one model of an alias")] = None


async def embed(
    services: Services, engines: Engines, caller: Caller, request: Request, body: EmbeddingRequest
) -> Response:
    """Return the embeddings of the model that the request names, or that an alias stands for."""
    name = body.model
    targets = await find_targets(services, engines, caller, name)
    if targets is None:
        return await _embed(services, engines, caller, request, body)
    model = choose(targets, name, request.headers.get(STICKY_HEADER) or body.user)
    count = partial(engines.traffic.add, caller.project_id, name, model)
    started = time.monotonic()
    with counted_failures(count):
        body = body.model_copy(update={"model": model})
        response = await _embed(services, engines, caller, request, body)
    count(time.monotonic() - started)
    return response


async def _embed(
    services: Services, engines: Engines, caller: Caller, request: Request, body: EmbeddingRequest
) -> Response:
    if not is_upstream(body.model) and not services.settings.engine_url_of(body.model):
        raise NotFound(NOT_SERVED["embeddings"], param="model", code="not_served")
    refuse_agents(caller, body.model)
    enforce_tokens(request)
    fields: dict[str, Any] = body.model_dump(exclude_unset=True, exclude_none=True)
    tally = UsageTally([len(json.dumps(fields)) // BYTES_OF_A_TOKEN], 0)

    def charge(num_tokens: int) -> None:
        state_rate(request, services.limiter.use_tokens(caller.key_id, num_tokens))

    target = service.choose(await engines.finder.find(services, caller, body.model))
    exchange = proxy.Exchange(
        engines.upstream_client if target.is_upstream else engines.client,
        target,
        engines.queues.of(target),
        PATH,
        proxy.ProxyCallbacks(lambda: None, lambda: None),
        tally,
        "input",
    )

    def count(*numbers: int) -> None:
        key = QuestionKey(caller.project_id, caller.key_id, body.model)
        engines.counts.add(key, QuestionCount(*numbers))

    bill = Bill(tally, charge, count)
    with engines.in_flight.hold(caller.key_id, 1, services.settings.answers_per_key):
        try:
            await bill.open()
            post = partial(exchange.post, PATH, fields)
            answer = await proxy.while_connected(post, request, exchange)
        finally:
            await bill.settle()
    if not answer.is_success:
        raise target.refusal_of(answer, answer.content, "input")
    return Response(answer.content, headers=proxy.headers("application/json"))
