"""The accepted records: chat, prompt/completion, plain text, and preference (two answers to one
chat, of which one is preferred).

Each shape is one strict class; what a shape can train with stands here too. What other tools write
is converted to these shapes by `records.dialects`.
"""

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from falqon_core.contract.config import ObjectiveName
from falqon_core.records.jsonl import BadRecord, parse_line

NonEmptyText = Annotated[str, StringConstraints(min_length=1)]


class StrictRecord(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FunctionCall(StrictRecord):
    name: NonEmptyText
    arguments: str

    @field_validator("arguments")
    @classmethod
    def _arguments_are_an_object(cls, arguments: str) -> str:
        """Refuse what no reader of JSON takes for one object, nested as deeply as a line may be."""
        try:
            value = parse_line(arguments, 1)
            kind = type(value).__name__ if arguments else "nothing"
            reason = "" if isinstance(value, dict) else f"found {kind}"
        except BadRecord as error:
            reason = error.error.message
        if reason:
            message = "the arguments of a call are not a JSON object in a string: {reason}"
            raise PydanticCustomError("arguments", message, {"reason": reason})
        return arguments


class ToolCall(StrictRecord):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(StrictRecord):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[str] | None = None  # Several text parts, where there are several.
    reasoning_content: NonEmptyText | None = None
    name: str | None = None
    weight: Annotated[int, Field(ge=0, le=1)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True)] | None = None
    tool_call_id: str | None = None

    @property
    def parts(self) -> list[str]:
        """Return the texts of the content."""
        if isinstance(self.content, list):
            return self.content
        return [self.content] if self.content else []

    @property
    def text(self) -> str:
        """Return the content, a line for each of its parts."""
        return "\n".join(self.parts)

    @model_validator(mode="after")
    def _content_fits_the_role(self) -> Self:
        if self.weight is not None and self.role != "assistant":
            raise ValueError("weight is allowed on assistant messages only")
        if self.tool_calls is not None and self.role != "assistant":
            raise ValueError("tool_calls are allowed on assistant messages only")
        if self.reasoning_content is not None and self.role != "assistant":
            raise ValueError("reasoning_content is allowed on assistant messages only")
        if not self.content and not self.tool_calls and self.role != "tool":
            raise ValueError(
                "a message needs non-empty content"
                + (" or tool_calls" if self.role == "assistant" else "")
            )
        return self


class Chat(StrictRecord):
    """The input of a chat template."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    tools: Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = None
    parallel_tool_calls: bool | None = None

    @field_validator("tools")
    @classmethod
    def _tools_are_plain_json(
        cls, tools: list[dict[str, Any]] | None
    ) -> list[dict[str, Any]] | None:
        try:
            json.dumps(tools, ensure_ascii=False, allow_nan=False).encode()
        # A number such as 1e999, half a surrogate pair, deep nesting.
        except (ValueError, RecursionError) as error:
            raise ValueError(f"tools cannot be written as JSON again: {error}") from None
        return tools

    @model_validator(mode="after")
    def _answers_name_their_calls(self) -> Self:
        """Refuse a tool's answer to no earlier call. Calls may be answered in any order, several
        times, or not at all.
        """
        call_ids: set[str] = set()
        for index, message in enumerate(self.messages):
            call_ids.update(call.id for call in message.tool_calls or ())
            if message.role == "tool" and message.tool_call_id not in call_ids:
                raise _orphaned_answer(index, message.tool_call_id)
        return self


def _orphaned_answer(index: int, call_id: str | None) -> PydanticCustomError:
    """Return the refusal of a tool's answer; `path` leads from the chat to what is at fault."""
    if call_id is None:
        message = "a message of role 'tool' answers a call and must name it in 'tool_call_id'"
        return PydanticCustomError("tool_call_id", message, {"path": ("messages", index)})
    message = "no assistant message before this one makes a call with the id '{id}'"
    return PydanticCustomError(
        "tool_call_id", message, {"path": ("messages", index, "tool_call_id"), "id": call_id}
    )


class ChatRecord(Chat):
    @model_validator(mode="after")
    def _has_something_to_learn(self) -> Self:
        assistant = [m for m in self.messages if m.role == "assistant"]
        if not assistant:
            raise ValueError(
                "messages: at least one message must have role 'assistant', or there is nothing "
                "to learn"
            )
        if all(m.weight == 0 for m in assistant):
            raise ValueError(
                "messages: every assistant message has weight 0, so there is nothing to learn"
            )
        if self.messages[-1].role != "assistant":
            raise ValueError("messages: the last message must have role 'assistant'")
        return self


class CompletionRecord(StrictRecord):
    prompt: str
    completion: NonEmptyText


class TextRecord(StrictRecord):
    text: NonEmptyText


class PreferenceInput(Chat):
    """The prompt of both answers."""

    @model_validator(mode="after")
    def _asks_for_an_answer(self) -> Self:
        if self.messages[-1].role not in ("user", "tool"):
            raise ValueError(
                "messages: the last message of 'input' must have role 'user' or 'tool'; the two "
                "outputs answer it"
            )
        if any(message.weight is not None for message in self.messages):
            raise ValueError(
                "messages: weight does not apply here, only the two outputs are learned; leave it "
                "out"
            )
        return self


class PreferenceRecord(StrictRecord):
    """As the OpenAI fine-tuning API has it: each output is exactly one assistant message."""

    input: PreferenceInput
    preferred_output: Annotated[list[ChatMessage], Field(min_length=1, max_length=1)]
    non_preferred_output: Annotated[list[ChatMessage], Field(min_length=1, max_length=1)]

    @field_validator("preferred_output", "non_preferred_output")
    @classmethod
    def _is_an_answer(cls, output: list[ChatMessage]) -> list[ChatMessage]:
        if output[0].role != "assistant":
            raise ValueError(f"the message must have role 'assistant', not '{output[0].role}'")
        if output[0].weight is not None:
            raise ValueError("weight does not apply to preference records; leave it out")
        return output

    @model_validator(mode="after")
    def _prefers_something(self) -> Self:
        if self.preferred_output == self.non_preferred_output:
            raise ValueError(
                "preferred_output and non_preferred_output are the same, so there is nothing to "
                "learn"
            )
        return self

    @property
    def chats(self) -> tuple[ChatRecord, ChatRecord]:
        """The chat with the preferred answer and with the other one; only the answer is learned."""
        prompt = [
            m.model_copy(update={"weight": 0}) if m.role == "assistant" else m
            for m in self.input.messages
        ]
        tools = self.input.tools
        parallel = self.input.parallel_tool_calls
        preferred, other = (
            ChatRecord(messages=prompt + output, tools=tools, parallel_tool_calls=parallel)
            for output in (self.preferred_output, self.non_preferred_output)
        )
        return preferred, other


SupervisedRecord = ChatRecord | CompletionRecord | TextRecord
Record = SupervisedRecord | PreferenceRecord
Shape = Literal["messages", "prompt/completion", "text", "preference"]


def shape_of(record: Record) -> Shape:
    match record:
        case ChatRecord():
            return "messages"
        case CompletionRecord():
            return "prompt/completion"
        case TextRecord():
            return "text"
        case PreferenceRecord():
            return "preference"


def objective_for(shape: Shape) -> ObjectiveName:
    """Return the objective that records of this shape serve."""
    return "dpo" if shape == "preference" else "supervised"


def wrong_kind(shape: Shape, objective: ObjectiveName) -> str | None:
    """Return the advice about records of this shape under `objective`; None when they fit."""
    if objective_for(shape) == objective:
        return None
    if objective == "dpo":
        return (
            f"the record has shape '{shape}', but method dpo compares two answers and needs "
            "'input', 'preferred_output' and "
            "'non_preferred_output' in every line; write such records, or train without dpo"
        )
    return (
        "this is a preference record, which only method dpo learns from; choose dpo, or write "
        "chat, prompt/completion or text records"
    )


def num_characters(record: Record) -> int:
    """Return the number of characters that the model reads, without the template; the input of a
    preference record counts twice."""
    match record:
        case ChatRecord():
            return sum(map(_message_characters, record.messages))
        case CompletionRecord():
            return len(record.prompt) + len(record.completion)
        case TextRecord():
            return len(record.text)
        case PreferenceRecord():
            return sum(num_characters(chat) for chat in record.chats)


@dataclass(frozen=True, slots=True)
class LearnedTurns:
    """The learned turns of a chat, and the characters that they come to where each is a sequence of
    its own, with all that stands before it.
    """

    num_turns: int
    num_characters: int


def learned_turns(record: ChatRecord) -> LearnedTurns:
    num_turns, num_read, total = 0, 0, 0
    for message in record.messages:
        num_read += _message_characters(message)
        if message.role == "assistant" and message.weight != 0:
            num_turns += 1
            total += num_read
    return LearnedTurns(num_turns, total)


def _message_characters(message: ChatMessage) -> int:
    calls = message.tool_calls or ()
    return (
        len(message.text)
        + len(message.reasoning_content or "")
        + sum(len(call.function.name) + len(call.function.arguments) for call in calls)
    )
