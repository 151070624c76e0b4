"""Use cases of responses: answers in OpenAI's newer form, given by the chat of a model."""

import json

from anyio.to_thread import run_sync
from fastapi import Request, Response

from app.auth.caller import Caller
from app.base.errors import InvalidRequest, NotFound
from app.inference.answers import IGNORED_HEADER, Engines, answer
from app.inference.recording import make_recorder
from app.models import AnswerKind
from app.responses import objects
from app.responses.chat import parse_chat, renamed
from app.responses.form import ResponseForm
from app.responses.items import Message
from app.responses.schemas import ResponseRequest
from app.services import Services
from app.stored_answers import service as stored_answers
from app.stored_answers.records import given_message


async def create_response(
    services: Services, engines: Engines, caller: Caller, request: Request, body: ResponseRequest
) -> Response:
    earlier: list[Message] = []
    if body.previous_response_id is not None:
        await engines.answer_queue.wait_until_written(
            body.previous_response_id.removeprefix("resp_")
        )
        earlier = await run_sync(_messages_until, services, caller, body.previous_response_id)
    chat = parse_chat(body, earlier)
    is_stored = body.store is not False and caller.stores_answers
    recorder = make_recorder(engines.answer_queue, caller, chat, AnswerKind.RESPONSE)
    begun = objects.begun(body, recorder.public_id, is_stored=is_stored)
    form = ResponseForm(begun, recorder if is_stored else None)
    try:
        response = await answer(services, engines, caller, request, chat, form)
    except InvalidRequest as error:
        raise renamed(error) from None
    if body.ignored_fields:
        ignored = response.headers.get(IGNORED_HEADER)
        names = [*([ignored] if ignored else []), *body.ignored_fields]
        response.headers[IGNORED_HEADER] = ", ".join(names)
    return response


def _messages_until(services: Services, caller: Caller, response_id: str) -> list[Message]:
    """Return the messages of a stored response, and its own, without its instructions."""
    with services.database.read() as session:
        try:
            stored = stored_answers.get(
                session, caller.project_id, AnswerKind.RESPONSE, response_id
            )
        except NotFound:
            raise InvalidRequest(
                f"previous_response_id: there is no stored response {response_id}. A response is "
                "stored in a project that stores answers, unless store is false, and until it is "
                "deleted.",
                param="previous_response_id",
                code="previous_response_not_found",
            ) from None
    document = json.loads(stored.document)
    messages: list[Message] = json.loads(stored.question)["messages"]
    if document["instructions"]:
        messages = messages[1:]
    said = given_message(document | {"status": "completed"})
    return [*messages, *([said] if said else [])]
