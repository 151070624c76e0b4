from typing import Any

from fastapi import APIRouter, Request, Response

from app.http.dependencies import InferenceCaller, ServicesDep
from app.http.openapi import DESCRIPTIONS, HEADERS_OF_TOKENS
from app.http.routes import ApiRoute, TokenRoute
from app.inference.answers import EnginesDep, answer
from app.inference.embeddings import EmbeddingRequest, embed
from app.inference.schemas import ChatCompletionRequest, CompletionRequest

router = APIRouter(prefix="/v1", tags=["inference"], route_class=ApiRoute)
of_tokens = APIRouter(route_class=TokenRoute)
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"application/json": {}, "text/event-stream": {}},
        "headers": HEADERS_OF_TOKENS,
    },
    404: {"description": DESCRIPTIONS[404]},
    429: {"description": DESCRIPTIONS[429], "headers": HEADERS_OF_TOKENS},
}

WHOLE: dict[str, Any] = {"content": {"application/json": {}}, "headers": HEADERS_OF_TOKENS}


@router.post("/chat/completions", response_class=Response, responses=RESPONSES)
async def create_chat_completion(
    services: ServicesDep,
    engines: EnginesDep,
    caller: InferenceCaller,
    request: Request,
    body: ChatCompletionRequest,
) -> Response:
    """Create a chat completion of a base model or a fine-tuned one. The first request loads the
    model, and waits up to a minute for that.
    """
    return await answer(services, engines, caller, request, body)


@of_tokens.post("/completions", response_class=Response, responses=RESPONSES)
async def create_completion(
    services: ServicesDep,
    engines: EnginesDep,
    caller: InferenceCaller,
    request: Request,
    body: CompletionRequest,
) -> Response:
    """Create a completion of a text."""
    return await answer(services, engines, caller, request, body)


@of_tokens.post("/embeddings", response_class=Response, responses=RESPONSES | {200: WHOLE})
async def create_embeddings(
    services: ServicesDep,
    engines: EnginesDep,
    caller: InferenceCaller,
    request: Request,
    body: EmbeddingRequest,
) -> Response:
    """Create embeddings, where a name stands for a model of the upstream, or the operator's own
    engine has one. Models here have none.
    """
    return await embed(services, engines, caller, request, body)


router.include_router(of_tokens)
