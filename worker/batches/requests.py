"""Requests of a batch's lines, and the lines of its files."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import ValidationError

from app.base.errors import ApiError, InvalidRequest, refusal_of_body
from app.base.ids import new_id
from app.inference.schemas import ChatCompletionRequest
from app.responses import objects
from app.responses.chat import parse_chat, renamed
from app.responses.schemas import ResponseRequest

Document = dict[str, Any]
RESPONSES = "/v1/responses"
OK = 200


@dataclass(frozen=True, slots=True)
class LineRequest:
    """The chat that a line asks for, and how its answer and its refusal are told."""

    chat: ChatCompletionRequest
    tell: Callable[[Document], Document]
    rename: Callable[[InvalidRequest], InvalidRequest]


def parse_request(endpoint: str, body: Document) -> LineRequest:
    """Return what a line asks for. Raises `InvalidRequest` as the API would."""
    if endpoint == RESPONSES:
        request = _parse_response(body)
        response = objects.begun(request, new_id("resp_"), is_stored=False)
        chat = parse_chat(request, [])
        return LineRequest(chat, partial(objects.whole, response), renamed)
    try:
        chat = ChatCompletionRequest.model_validate(body)
    except ValidationError as error:
        raise refusal_of_body(error) from None
    _refuse_stream(chat.stream)
    return LineRequest(chat, lambda document: document, lambda error: error)


def answered(custom_id: str, document: Document) -> str:
    """Return the line of an answer."""
    return _line(custom_id, _response(OK, document))


def refused(custom_id: str, error: ApiError) -> str:
    """Return the line of a request that the API would have refused, or failed to answer."""
    fields = {"message": error.message, "type": error.type, "param": error.param}
    return _line(custom_id, _response(error.status, {"error": fields | {"code": error.code}}))


def unasked(custom_id: str, code: str, message: str) -> str:
    """Return the line of a request that was not sent."""
    return _line(custom_id, None, {"code": code, "message": message})


def _parse_response(body: Document) -> ResponseRequest:
    try:
        request = ResponseRequest.model_validate(body)
    except ValidationError as error:
        raise refusal_of_body(error) from None
    _refuse_stream(bool(request.stream))
    if request.previous_response_id is not None:
        raise InvalidRequest(
            "previous_response_id: a request of a batch stands alone; write the messages into "
            "its input.",
            param="previous_response_id",
            code="unsupported_parameter",
        )
    return request


def _refuse_stream(is_streamed: bool) -> None:
    if is_streamed:
        raise InvalidRequest(
            "stream: answers of a batch stand in a file; leave it out.",
            param="stream",
            code="unsupported_parameter",
        )


def _response(status: int, body: Document) -> Document:
    return {"status_code": status, "request_id": new_id("req_"), "body": body}


def _line(custom_id: str, response: Document | None, error: Document | None = None) -> str:
    """Return a line in ASCII: any other text might hold what a database does not keep."""
    line = {"id": new_id("batch_req_"), "custom_id": custom_id}
    return json.dumps(line | {"response": response, "error": error}, separators=(",", ":"))
