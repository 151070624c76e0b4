"""The chat that a request for a response is, and refusals of it in the request's own words. Free of
the web framework.
"""

from pydantic import ValidationError

from app.base.errors import InvalidRequest, refusal_of
from app.inference.schemas import ChatCompletionRequest
from app.responses.items import Message
from app.responses.schemas import ResponseRequest

# Fields of a chat, and what they are called in a response.
NAMES = {
    "messages": "input",
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
}


def parse_chat(request: ResponseRequest, earlier: list[Message]) -> ChatCompletionRequest:
    """Return the chat after the messages of an earlier response. Raises `InvalidRequest`."""
    try:
        return ChatCompletionRequest.model_validate(request.chat(earlier))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise renamed(refusal_of(fault | {"loc": ("body", *fault["loc"])})) from None
    except InvalidRequest as error:
        raise renamed(error) from None


def renamed(error: InvalidRequest) -> InvalidRequest:
    """Return the refusal of a chat with the field as a response has it."""
    for name, own in NAMES.items():
        param = error.param or ""
        if param == name or param.startswith(f"{name}."):
            # The places of messages are none of the input's: instructions and earlier turns count.
            rest = "" if name == "messages" else param.removeprefix(name)
            message = error.message.removeprefix(f"{param}: ")
            return InvalidRequest(f"{own}{rest}: {message}", param=f"{own}{rest}", code=error.code)
    return error
