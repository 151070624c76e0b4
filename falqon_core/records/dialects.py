"""Records in the dialects of other tools, and what they mean in the shapes of `records.shapes`.

A record that passes its dialect's class always converts: whatever a shape would refuse is refused
here, in the dialect's own words. What is given up: tool calls in ShareGPT, and the history of
Alpaca's descendants; such lines are refused. The lines of `records.conversational` are rewritten
before they are checked and have no class here.
"""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from falqon_core.records.shapes import (
    ChatMessage,
    ChatRecord,
    PreferenceInput,
    PreferenceRecord,
    StrictRecord,
    Text,
)

Dialect = Literal["alpaca", "sharegpt", "conversational", "chosen/rejected"]

RULES: dict[Dialect, str] = {
    "alpaca": "the user asks 'instruction', followed by an empty line and 'input' where there is "
    "one; the assistant answers 'output'",
    "sharegpt": (
        "'conversations' become messages: 'human' is the user, 'gpt' the assistant; 'system' "
        "comes first, 'id' is left out; with 'chosen' "
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


class AlpacaRecord(StrictRecord):
    instruction: Text
    input: str = ""
    output: Text

    def converted(self) -> ChatRecord:
        question = f"{self.instruction}\n\n{self.input}" if self.input else self.instruction
        return ChatRecord(
            messages=[
                ChatMessage(role="user", content=question),
                ChatMessage(role="assistant", content=self.output),
            ]
        )


class ShareGptTurn(StrictRecord):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, serialize_by_alias=True)

    speaker: Literal["system", "human", "user", "gpt", "assistant"] = Field(alias="from")
    value: Text

    @property
    def role(self) -> Literal["system", "user", "assistant"]:
        return _ROLES[self.speaker]

    def message(self) -> ChatMessage:
        return ChatMessage(role=self.role, content=self.value)


class ShareGptRecord(StrictRecord):
    id: str | int | None = None
    system: Text | None = None
    conversations: Annotated[list[ShareGptTurn], Field(min_length=1, fail_fast=True)]
    chosen: ShareGptTurn | None = None
    rejected: ShareGptTurn | None = None

    @model_validator(mode="after")
    def _ends_with_what_is_learned(self) -> Self:
        last = self.conversations[-1].role
        if self.chosen is None and self.rejected is None:
            if last != "assistant":
                raise ValueError(
                    "conversations: the last turn must be from 'gpt', or there is nothing to learn"
                )
            return self
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


Converted = AlpacaRecord | ShareGptRecord
