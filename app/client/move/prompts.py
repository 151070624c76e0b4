"""Prompts to record answers to, from lines of several forms."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from app.client.api import Json
from app.client.errors import Misused
from app.client.move.request import BYTES_PER_TOKEN

WITH_MESSAGES = ("tools", "parallel_tool_calls")
NOT_SENT = ("weight",)  # means something to training only


class Prompt(NamedTuple):
    line: int
    body: Json  # messages, and the tools that they may call

    @property
    def key(self) -> str:
        """Return what two prompts have in common that are the same."""
        return json.dumps(self.body, sort_keys=True, ensure_ascii=False)


def read_prompts(path: Path) -> list[Prompt]:
    """Read each different prompt once. A line is a chat, a training record whose answer is left
    out, or a text in `prompt`.
    """
    try:
        with path.open("rb") as file:
            prompts = list(_prompts_of(file, str(path)))
    except OSError as error:
        raise Misused(f"{path} cannot be read: {error.strerror}.") from None
    if not prompts:
        raise Misused(f"{path} has no prompts.")
    return list({prompt.key: prompt for prompt in reversed(prompts)}.values())[::-1]


def num_tokens(prompts: Iterable[Prompt]) -> int:
    """Estimate what is charged for sending them."""
    return sum(len(prompt.key.encode()) for prompt in prompts) // BYTES_PER_TOKEN


def _prompts_of(lines: Iterator[bytes], name: str) -> Iterator[Prompt]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield Prompt(number, prompt_of(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise Misused(
                f"{name}, line {number}, is no prompt.",
                'Write one JSON object a line: {"messages": […]} or {"prompt": "a text"}.',
            ) from None


def prompt_of(record: Json) -> Json:
    """Return what is asked; raises `ValueError` or the like for what asks nothing."""
    if "prompt" in record:
        return {"messages": [{"role": "user", "content": _text(record["prompt"])}]}
    chat = record.get("input", record)  # of a preference record
    messages = [
        {name: value for name, value in message.items() if name not in NOT_SENT}
        for message in chat["messages"]
    ]
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages:
        raise ValueError("it has no message before the answer")
    return {"messages": messages} | {name: chat[name] for name in WITH_MESSAGES if name in chat}


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("it is no text")
    return value
