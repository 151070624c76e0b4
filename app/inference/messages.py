"""Messages of a request, read as training reads them, so that the client code that wrote the
records can query the model.
"""

from typing import Any

from app.base.errors import InvalidRequest
from falqon_core.records.jsonl import Unusable
from falqon_core.records.openai_lines import Normaliser

CHAT_FIELDS = frozenset(("messages", "tools", "parallel_tool_calls"))
MEDIA_CODES = {
    "image_url": "vision_not_supported",
    "input_image": "vision_not_supported",
    "image_file": "vision_not_supported",
    "image": "vision_not_supported",
    "input_audio": "audio_not_supported",
    "audio_url": "audio_not_supported",
    "audio": "audio_not_supported",
    "video_url": "video_not_supported",
    "file": "files_not_supported",
    "input_file": "files_not_supported",
}
# Codes of an invalid record; those of unsupported features keep their own.
INVALID_RECORD_CODES = ("invalid_record", "invalid_json")


def normalise(body: dict[str, Any]) -> dict[str, Any]:
    """Return the body with messages and tools in their newest form. Raises `InvalidRequest`."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return body
    _refuse_media(messages)
    written = {
        name: body[name]
        for name in ("messages", "tools", "functions")
        if body.get(name) is not None
    }
    try:
        chat = Normaliser().line(written, CHAT_FIELDS)
    except Unusable as fault:
        raise _refusal_of(fault) from None
    chat["messages"] = [_without_training(message) for message in chat["messages"]]
    if body.get("function_call") is not None:
        choice = body["function_call"]
        if isinstance(choice, dict):
            choice = {"type": "function", "function": choice}
        chat["tool_choice"] = choice
    return body | chat


def _refuse_media(messages: list[Any]) -> None:
    for i, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind in MEDIA_CODES:
                raise InvalidRequest(
                    f"messages.{i}.content: '{kind}' is no text; models here read text alone.",
                    param=f"messages.{i}.content",
                    code=MEDIA_CODES[kind],
                )


def _refusal_of(fault: Unusable) -> InvalidRequest:
    param = ".".join(str(part) for part in fault.path)
    code = None if fault.code in INVALID_RECORD_CODES else fault.code
    return InvalidRequest(f"{param}: {fault.message}; {fault.advice}.", param=param, code=code)


def _without_training(message: Any) -> Any:
    """Return the message without its weight, which only training reads; several texts become
    separate parts again, as templates expect them.
    """
    if not isinstance(message, dict):
        return message
    message = {name: value for name, value in message.items() if name != "weight"}
    content = message.get("content")
    if isinstance(content, list):
        message["content"] = [{"type": "text", "text": text} for text in content]
    return message
