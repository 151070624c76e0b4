"""Items of the input, and the messages that they are in a chat."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, JsonValue, Tag

from app.base.errors import InvalidRequest

Message = dict[str, Any]
MAX_ITEMS = 4_096
Text = str | list[dict[str, JsonValue]]


class InputItem(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    id: str | None = None
    status: str | None = None


class MessageItem(InputItem):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Text
    phase: str | None = None


class CallItem(InputItem):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    namespace: None = None
    caller: JsonValue = None


class CallOutputItem(InputItem):
    type: Literal["function_call_output"]
    call_id: str
    output: Text
    caller: JsonValue = None


class ReasoningItem(InputItem):
    """Thoughts of an earlier answer, which a model reads in its own turn alone."""

    type: Literal["reasoning"]
    summary: list[JsonValue] = []
    content: list[JsonValue] | None = None
    encrypted_content: str | None = None


def _kind_of(item: Any) -> str | None:
    kind = item.get("type", "message") if isinstance(item, dict) else item.type
    return kind if isinstance(kind, str) else None


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[CallOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(_kind_of),
]
KINDS = ("message", "function_call", "function_call_output", "reasoning")


def _checked(value: Any) -> Any:
    """Refuse an item that there is none of here, in one sentence."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise ValueError("write a text, or a list of items")
    if len(value) > MAX_ITEMS:
        raise ValueError(f"at most {MAX_ITEMS} items")
    for i, item in enumerate(value):
        kind = item.get("type", "message") if isinstance(item, dict) else None
        if kind not in KINDS:
            raise InvalidRequest(
                f"input.{i}: an item here is one of {', '.join(KINDS)}.",
                param=f"input.{i}",
                code="unsupported_item",
            )
    return [_without_nulls(item) for item in value]


def _without_nulls(item: Any) -> Any:
    """Return an item without the absent fields that the client's own objects carry."""
    if not isinstance(item, dict):
        return item
    return {name: value for name, value in item.items() if value is not None}


Input = Annotated[list[Item], Field(fail_fast=True), BeforeValidator(_checked)]


def messages_of(items: list[Item]) -> list[Message]:
    """Return the items as the messages of a chat: calls belong to the assistant's turn."""
    messages: list[Message] = []
    for item in items:
        match item:
            case MessageItem():
                messages.append({"role": item.role, "content": item.content})
            case CallItem():
                function = {"name": item.name, "arguments": item.arguments}
                call = {"id": item.call_id, "type": "function", "function": function}
                if not messages or messages[-1]["role"] != "assistant":
                    messages.append({"role": "assistant", "content": None})
                messages[-1].setdefault("tool_calls", []).append(call)
            case CallOutputItem():
                answer = {"role": "tool", "tool_call_id": item.call_id, "content": item.output}
                messages.append(answer)
            case ReasoningItem():
                pass
    return messages
