"""The rows of an evaluation: which of a file's records, what the models are asked, and what graders
know of each.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from app.base.errors import refusal_of_body
from app.inference.schemas import ChatCompletionRequest, CompletionRequest, InferenceRequest
from falqon_core.records.line_parser import Parsed
from falqon_core.records.shapes import (
    ChatMessage,
    ChatRecord,
    CompletionRecord,
    PreferenceRecord,
    TextRecord,
)
from worker.evaluation.grading import Item

CHAT_PATH = "/v1/chat/completions"
COMPLETION_PATH = "/v1/completions"
MAX_CHARACTERS = 2**25  # Characters of the rows of one evaluation, which are in memory together.


class RowsTooLong(Exception):
    """The rows that are chosen do not fit into memory together."""


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """One question. `item` is the record as its line has it, with the expected answer as
    `reference` unless it has one of its own.
    """

    line: int
    item: Item
    path: str
    question: dict[str, Any]

    @property
    def prompt(self) -> Any:
        """Return the last message before the answer, or the text before it."""
        if self.path == COMPLETION_PATH:
            return self.question["prompt"]
        return self.question["messages"][-1]["content"]

    def body(self, model: str, max_tokens: int, template_kwargs: dict[str, Any] | None) -> bytes:
        """Return the request body for a model, as the API would pass it on. Raises
        `InvalidRequest` where the API would refuse it, although training takes the record.
        """
        fields = {"model": model, "max_tokens": max_tokens, "temperature": 0.0, **self.question}
        form: type[InferenceRequest] = CompletionRequest
        if self.path != COMPLETION_PATH:
            form = ChatCompletionRequest
            fields["chat_template_kwargs"] = template_kwargs or None
        try:
            return form.model_validate(fields).for_engine()
        except ValidationError as error:
            raise refusal_of_body(error) from None


def choose(records: Iterable[tuple[int, Parsed]], max_rows: int) -> list[tuple[int, Parsed]]:
    """Return at most so many, each as likely as any other, in their order; the same each time.

    Raises `RowsTooLong` where they hold more than `MAX_CHARACTERS`.
    """
    chance = random.Random(0)
    chosen: list[tuple[int, Parsed]] = []
    sizes: list[int] = []
    total = 0
    for index, record in enumerate(records):
        place = len(chosen) if len(chosen) < max_rows else chance.randrange(index + 1)
        if place >= max_rows:
            continue
        size = _num_characters(record[1].value)
        if place == len(chosen):
            chosen.append(record)
            sizes.append(size)
        else:
            total -= sizes[place]
            chosen[place] = record
            sizes[place] = size
        total += size
        if total > MAX_CHARACTERS:
            raise RowsTooLong
    return sorted(chosen, key=lambda record: record[0])


def _num_characters(value: Any) -> int:
    """Return the characters of all texts in a JSON value, and one for each other value."""
    total = 0
    values = [value]
    while values:
        current = values.pop()
        if isinstance(current, dict):
            values += [*current.keys(), *current.values()]
        elif isinstance(current, list):
            values += current
        else:
            total += len(current) if isinstance(current, str) else 1
    return total


def row_of(line: int, parsed: Parsed) -> EvaluationRow | None:
    """Return the row of a record; None for a text or a lone answer, which have no prompt."""
    match parsed.record:
        case ChatRecord(messages=[_]):
            return None
        case ChatRecord(messages=messages, tools=tools):
            question = _chat(messages[:-1], tools)
            return EvaluationRow(line, _item(parsed, messages[-1].text), CHAT_PATH, question)
        case PreferenceRecord(input=chat, preferred_output=preferred):
            question = _chat(chat.messages, chat.tools)
            return EvaluationRow(line, _item(parsed, preferred[0].text), CHAT_PATH, question)
        case CompletionRecord(prompt=prompt, completion=completion):
            return EvaluationRow(
                line, _item(parsed, completion), COMPLETION_PATH, {"prompt": prompt}
            )
        case TextRecord():
            return None


def _item(parsed: Parsed, reference: str) -> Item:
    return {"reference": reference} | parsed.value


def _chat(messages: list[ChatMessage], tools: list[dict[str, Any]] | None) -> dict[str, Any]:
    turns = []
    for message in messages:
        turn = message.model_dump(mode="json", exclude_none=True, exclude={"weight", "content"})
        turns.append(turn | {"content": message.text})
    return {"messages": turns, "tools": tools}
