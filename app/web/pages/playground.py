"""Try it: a conversation with a model, and with another one beside it."""

from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request, Response

from app.auth.caller import Caller
from app.catalogue import service as catalogue
from app.catalogue import service as models
from app.catalogue.schemas import ModelObject
from app.http.dependencies import ServicesDep
from app.http.rates import enforce_requests
from app.inference.answers import EnginesDep, answer
from app.inference.schemas import ChatCompletionRequest
from app.services import Services
from app.web.playground_view import list_prompts
from app.web.rendering import page
from app.web.visitor import TOUCHES_STORAGE, PageRouter, ScriptRoute, Visitor

MAX_NAME_LENGTH = 512

router = PageRouter("/playground")
questions = APIRouter(prefix="/playground", route_class=ScriptRoute)


@router.get("", dependencies=TOUCHES_STORAGE)
def playground_page(
    services: ServicesDep,
    request: Request,
    caller: Visitor,
    model: Annotated[str, Query(max_length=MAX_NAME_LENGTH)] = "",
    beside: Annotated[str | None, Query(max_length=MAX_NAME_LENGTH)] = None,
) -> Response:
    with services.database.read() as session:
        choices = list(reversed(models.trainable(session, caller.project_id)))
    chosen = _choose(services, caller, choices, model, beside)
    ids = [each.id for each in chosen]
    return page(
        request,
        "playground/page.html",
        caller,
        choices=choices + [id_ for id_ in ids if id_ not in choices],
        ids=ids,
        prompts=list_prompts(services, caller, chosen),
    )


@questions.post("/v1/chat/completions")
async def ask(
    services: ServicesDep,
    engines: EnginesDep,
    caller: Visitor,
    request: Request,
    body: ChatCompletionRequest,
) -> Response:
    """Answer as the API does, to the dashboard's own session."""
    rates = await run_sync(services.limiter.take, caller.key_id, caller.requests_per_minute)
    enforce_requests(request, rates)
    return await answer(services, engines, caller, request, body)


def _choose(
    services: Services, caller: Caller, choices: list[str], model: str, beside: str | None
) -> list[ModelObject]:
    """Return the model and the one beside it: its base, unless another or none (empty) is named."""
    if not model and not choices:
        return []
    chosen = catalogue.retrieve_model(services, caller, model or choices[0])
    if beside is None:
        beside = chosen.base_model if chosen.base_model in choices else ""
    if not beside:
        return [chosen]
    return [chosen, catalogue.retrieve_model(services, caller, beside)]
