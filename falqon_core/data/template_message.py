"""A message of a record as chat templates expect it."""

import re
from typing import Any

from falqon_core.contract.errors import DatasetError
from falqon_core.data.content_parts import content_for
from falqon_core.records.jsonl import BadRecord, parse_line
from falqon_core.records.shapes import ChatMessage

_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")


def reasoning_field(template: str) -> str:
    """Return the name by which the template reads the reasoning of a message."""
    return next(
        (name for name in _REASONING_FIELDS if re.search(rf"""[.'"]{name}\b""", template)),
        _REASONING_FIELDS[0],
    )


def template_message(message: ChatMessage, template: str, reasoning: str) -> dict[str, Any]:
    """Return the message as the template expects it: arguments of tool calls parsed, content a
    string or parts, reasoning by the template's name for it, no weight.
    """
    plain = message.model_dump(exclude_none=True, exclude={"weight", "reasoning_content"})
    plain["content"] = content_for(template, message.role, message.parts)
    if message.reasoning_content is not None:
        plain[reasoning] = message.reasoning_content
    for call in plain.get("tool_calls", ()):
        try:
            call["function"]["arguments"] = parse_line(call["function"]["arguments"], 1)
        except BadRecord:
            name = call["function"]["name"]
            raise DatasetError(
                f"the arguments of the call to {name!r} are not a JSON object in a string"
            ) from None
    return plain
