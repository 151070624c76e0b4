"""Records in the dialects of other tools, and what they mean in the shapes of `records.shapes`.

A record that passes its dialect's class always converts: whatever a shape would refuse is refused
here, in the dialect's own words. What is given up: tool calls in ShareGPT; such lines are refused.
The lines of `records.conversational` are rewritten before they are checked and have no class here.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from falqon_core.records.fields import (
    Rewritten,
    refuse_second_system,
    system_of,
    without_system,
)
from falqon_core.records.jsonl import Unusable
from falqon_core.records.openai_lines import LineRewrite, Path
from falqon_core.records.shapes import (
    ChatMessage,
    ChatRecord,
    NonEmptyText,
    PreferenceInput,
    PreferenceRecord,
    StrictRecord,
)
from falqon_core.records.weights import weight_of

Dialect = Literal["alpaca", "sharegpt", "conversational", "chosen/rejected"]

DIALECT_RULES: dict[Dialect, str] = {
    "alpaca": "the user asks 'instruction', followed by an empty line and 'input' where there is "
    "one; the assistant answers 'output', or 'chosen' rather than 'rejected'; 'system' comes "
    "first, then the questions and answers of 'history', whose answers are learned as well",
    "sharegpt": (
        "'conversations' become messages: 'human' is the user, 'gpt' the assistant, and an answer "
        "of 'weight' 0 is not learned; 'system' comes first, 'id' is left out; with 'chosen' "
        "and 'rejected' they become the input, the preferred and the non-preferred output of a "
        "preference record"
    ),
    "conversational": "'prompt' and 'completion' become one chat, of which the completion is "
    "learned; a text is a message of the user, or of the assistant",
    "chosen/rejected": "'prompt' becomes the input, 'chosen' and 'rejected' the preferred and the "
    "non-preferred output; a text is a message of the user, or of the assistant",
}
_ROLES: dict[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}


class _AlpacaQuestion(StrictRecord):
    system: str = ""
    history: list[list[NonEmptyText]] = []
    instruction: NonEmptyText
    input: str = ""

    def _messages(self) -> list[ChatMessage]:
        messages = [ChatMessage(role="system", content=self.system)] if self.system else []
        for question, answer in self.history:
            messages.append(ChatMessage(role="user", content=question))
            messages.append(ChatMessage(role="assistant", content=answer))
        last = f"{self.instruction}\n\n{self.input}" if self.input else self.instruction
        return [*messages, ChatMessage(role="user", content=last)]


class AlpacaRecord(_AlpacaQuestion):
    output: NonEmptyText

    def converted(self) -> ChatRecord:
        answer = ChatMessage(role="assistant", content=self.output)
        return ChatRecord(messages=[*self._messages(), answer])


class AlpacaPreference(_AlpacaQuestion):
    chosen: NonEmptyText
    rejected: NonEmptyText

    @model_validator(mode="after")
    def _prefers_something(self) -> Self:
        if self.chosen == self.rejected:
            raise ValueError("'chosen' and 'rejected' are the same, so there is nothing to learn")
        return self

    def converted(self) -> PreferenceRecord:
        return PreferenceRecord(
            input=PreferenceInput(messages=self._messages()),
            preferred_output=[ChatMessage(role="assistant", content=self.chosen)],
            non_preferred_output=[ChatMessage(role="assistant", content=self.rejected)],
        )


class ShareGptTurn(StrictRecord):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, serialize_by_alias=True)

    speaker: Literal["system", "human", "user", "gpt", "assistant"] = Field(alias="from")
    value: NonEmptyText
    weight: Annotated[int, Field(ge=0, le=1)] | None = None

    @property
    def role(self) -> Literal["system", "user", "assistant"]:
        return _ROLES[self.speaker]

    def message(self) -> ChatMessage:
        return ChatMessage(role=self.role, content=self.value, weight=self.weight)


class ShareGptRecord(StrictRecord):
    id: str | int | None = None
    system: str = ""
    conversations: Annotated[list[ShareGptTurn], Field(min_length=1, fail_fast=True)]
    chosen: ShareGptTurn | None = None
    rejected: ShareGptTurn | None = None

    @model_validator(mode="after")
    def _ends_with_what_is_learned(self) -> Self:
        last = self.conversations[-1].role
        if any(turn.weight and turn.role != "assistant" for turn in self.conversations):
            raise ValueError("conversations: weight 1 is allowed on turns from 'gpt' only")
        if self.chosen is None and self.rejected is None:
            if last != "assistant":
                raise ValueError(
                    "conversations: the last turn must be from 'gpt', or there is nothing to learn"
                )
            if all(turn.weight == 0 for turn in self.conversations if turn.role == "assistant"):
                raise ValueError(
                    "conversations: every turn from 'gpt' has weight 0, and nothing is learned"
                )
            return self
        turns = (*self.conversations, self.chosen, self.rejected)
        if any(turn and turn.weight is not None for turn in turns):
            raise ValueError("weight does not apply beside 'chosen' and 'rejected'; leave it out")
        if self.chosen is None or self.rejected is None:
            raise ValueError("'chosen' and 'rejected' go together, and one of them is missing")
        if last != "user":
            raise ValueError(
                "conversations: the last turn must be from 'human'; 'chosen' and 'rejected' "
                "answer it"
            )
        if self.chosen.role != "assistant" or self.rejected.role != "assistant":
            raise ValueError("'chosen' and 'rejected' must be from 'gpt'")
        if self.chosen.value == self.rejected.value:
            raise ValueError("'chosen' and 'rejected' are the same, so there is nothing to learn")
        return self

    def converted(self) -> ChatRecord | PreferenceRecord:
        messages = [ChatMessage(role="system", content=self.system)] if self.system else []
        messages += [turn.message() for turn in self.conversations]
        if self.chosen is None or self.rejected is None:
            return ChatRecord(messages=messages)
        return PreferenceRecord(
            input=PreferenceInput(messages=messages),
            preferred_output=[self.chosen.message()],
            non_preferred_output=[self.rejected.message()],
        )


Converted = AlpacaRecord | AlpacaPreference | ShareGptRecord


def read_alpaca(line: dict[str, Any]) -> Rewritten:
    """Return the line with its system prompt in 'system'. Raises `Unusable`."""
    history = line.get("history")
    if isinstance(history, list):
        for index, turn in enumerate(history):
            if not isinstance(turn, list) or len(turn) != 2:
                message = "an earlier turn is no pair of a question and its answer"
                advice = 'write ["question", "answer"]'
                raise Unusable(("history", index), message, advice, "invalid_record")
    if "chosen" in line and line.get("output") == "":
        line = {name: inner for name, inner in line.items() if name != "output"}
    return _with_system(line)


def read_sharegpt(line: dict[str, Any]) -> Rewritten:
    """Return the line with its system prompt in 'system', and without what means nothing in its
    turns. Raises `Unusable`.
    """
    turns = line["conversations"]
    if not isinstance(turns, list) or not turns:
        return _with_system(line)
    rewrites: set[LineRewrite] = set()
    system = system_of(line)
    if system and refuse_second_system(system, turns[0], role="from", content="value"):
        line = without_system(line)
    kept: list[Any] = []
    places: list[int] = []
    for index, turn in enumerate(turns):
        turn = _read_turn(turn, ("conversations", index), rewrites)
        if turn == {"from": "system", "value": ""}:
            rewrites.add("empty_system")
            continue
        kept.append(turn)
        places.append(index)
    answers = {
        name: _read_turn(line[name], (name,), rewrites)
        for name in ("chosen", "rejected")
        if name in line
    }

    def locate(fault: Path) -> Path:
        match fault:
            case ("conversations", int(index), *rest):
                return ("conversations", places[index], *rest)
        return fault

    value = _with_system(line | {"conversations": kept} | answers).value
    return Rewritten(value, locate, frozenset(rewrites))


def has_roles(line: dict[str, Any]) -> bool:
    """Return True if the turns of 'conversations' are messages with 'role' and 'content'."""
    match line.get("conversations"):
        case [dict(first), *_]:
            return "role" in first and "from" not in first
    return False


def chat_of_conversations(line: dict[str, Any]) -> Rewritten:
    """Return the line with its 'conversations' as 'messages'. Raises `Unusable`."""
    for name in ("chosen", "rejected"):
        if name in line:
            message = "'conversations' of messages do not go with 'chosen' and 'rejected'"
            advice = "rename 'conversations' to 'prompt'"
            raise Unusable(("conversations",), message, advice, "ambiguous_record")
    rest = {name: inner for name, inner in line.items() if name != "conversations"}
    value = rest | {"messages": line["conversations"]}
    return Rewritten(value, rewrites=frozenset(("conversations_field",)))


def _with_system(line: dict[str, Any]) -> Rewritten:
    system = system_of(line)
    value = without_system(line)
    return Rewritten(value | {"system": system[1]} if system else value)


def _read_turn(turn: Any, path: Path, rewrites: set[LineRewrite]) -> Any:
    if not isinstance(turn, dict) or len(turn) == 2:
        return turn
    is_answer = _ROLES.get(str(turn.get("from"))) == "assistant"
    if turn.get("train") is not None:
        rewrites.add("train_field")
    weight = weight_of(turn, path, is_answer=is_answer)
    fields = {
        key: inner
        for key, inner in turn.items()
        if inner is not None and key not in ("train", "weight")
    }
    if weight is None or (weight == 0 and not is_answer):  # Only answers are ever learned.
        return fields
    return fields | {"weight": weight}
