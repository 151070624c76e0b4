from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.requests import HTTPConnection

from app.files.schemas import FileObject
from app.http.dependencies import TOUCHES_STORAGE, After, Reader, ServicesDep, Writer
from app.http.pagination import Page
from app.http.routes import ApiRoute
from app.models import AnswerKind
from app.models.answer_file import AnswerFileRequest, AnswerFilter
from app.models.stored_answer import PREFIXES
from app.stored_answers import files, service
from app.stored_answers.filters import parse_filter
from app.stored_answers.queue import AnswerQueue
from app.stored_answers.schemas import (
    Order,
    StoredAnswerChange,
    StoredAnswerDeleted,
    StoredAnswerObject,
    StoredAnswersDeleted,
    StoredMessage,
)

router = APIRouter(prefix="/v1", tags=["stored answers"], route_class=ApiRoute)
CHAT = AnswerKind.CHAT
Limit = Annotated[int, Query(ge=1, le=100)]
FILTERS: list[dict[str, Any]] = [
    {
        "in": "query",
        "name": "metadata",
        "style": "deepObject",
        "explode": True,
        "schema": {"type": "object", "additionalProperties": {"type": "string"}},
        "description": "`metadata[key]=value`",
    },
    *(
        {"in": "query", "name": name, "schema": {"type": kind}}
        for name, kind in (
            ("model", "string"),
            ("created_after", "integer"),
            ("created_before", "integer"),
            ("corrected", "boolean"),
        )
    ),
]


async def wait_until_written(connection: HTTPConnection) -> None:
    """Let an answer that this process has just given reach the database before it is read."""
    queue: AnswerQueue = connection.app.state.answer_queue
    public_id = next(iter(connection.path_params.values()))
    for prefix in PREFIXES.values():
        await queue.wait_until_written(public_id.removeprefix(prefix))


WRITTEN = [Depends(wait_until_written)]
COMPLETION = "/chat/completions/{completion_id}"


@router.get("/chat/completions", openapi_extra={"parameters": FILTERS})
def list_completions(
    services: ServicesDep,
    caller: Reader,
    request: Request,
    after: After = None,
    limit: Limit = 20,
    order: Order = "asc",
) -> Page[StoredAnswerObject]:
    """List the chat completions that were stored, the oldest first unless the order says so."""
    filter = parse_filter(request).model_copy(update={"kind": CHAT})
    return service.list_answers(services, caller, filter, after=after, limit=limit, order=order)


@router.get(COMPLETION, dependencies=WRITTEN)
def retrieve_completion(
    services: ServicesDep, caller: Reader, completion_id: str
) -> StoredAnswerObject:
    return service.retrieve_answer(services, caller, CHAT, completion_id)


@router.post(COMPLETION, dependencies=WRITTEN)
def change_completion(
    services: ServicesDep, caller: Writer, completion_id: str, body: StoredAnswerChange
) -> StoredAnswerObject:
    """Replace the metadata, such as a rating; `falqon.corrected` is the answer that should have
    come.
    """
    return service.change_answer(services, caller, CHAT, completion_id, body)


@router.delete(COMPLETION, dependencies=WRITTEN)
def delete_completion(
    services: ServicesDep, caller: Writer, completion_id: str
) -> StoredAnswerDeleted:
    return service.delete_answer(services, caller, CHAT, completion_id)


@router.get(f"{COMPLETION}/messages", dependencies=WRITTEN)
def list_messages(
    services: ServicesDep,
    caller: Reader,
    completion_id: str,
    after: After = None,
    limit: Limit = 20,
    order: Order = "asc",
) -> Page[StoredMessage]:
    """List the messages of the question."""
    return service.list_messages(
        services, caller, CHAT, completion_id, after=after, limit=limit, order=order
    )


@router.post("/stored_answers/delete")
def delete_answers(
    services: ServicesDep, caller: Writer, body: AnswerFilter
) -> StoredAnswersDeleted:
    """Delete the stored answers that match, 10,000 of them at most; `has_more` says that there are
    more.
    """
    return service.delete_answers(services, caller, body)


@router.post("/stored_answers/files", dependencies=TOUCHES_STORAGE)
def make_file(services: ServicesDep, caller: Writer, body: AnswerFileRequest) -> FileObject:
    """Make a training file of the stored answers that match: supervised, or pairs to prefer by."""
    return files.make_file(services, caller, body)
