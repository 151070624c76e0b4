"""Prompts to record answers to, from lines of several forms."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from app.client.api import Json
from app.client.errors import Misused
from app.client.move.legacy import UnusablePrompt, with_tools
from app.client.move.request import BYTES_PER_TOKEN

# Parameters that change an answer, by OpenAI's reference.
WITH_MESSAGES = (
    "frequency_penalty",
    "logit_bias",
    "max_completion_tokens",
    "max_tokens",
    "parallel_tool_calls",
    "presence_penalty",
    "reasoning_effort",
    "response_format",
    "seed",
    "stop",
    "temperature",
    "tool_choice",
    "tools",
    "top_p",
    "verbosity",
)
# Parameters that change it, too, but cannot be recorded as text, or are not OpenAI's.
REFUSED = ("audio", "chat_template_kwargs", "modalities", "prediction", "web_search_options")
NOT_SENT = ("weight", "train")  # mean something to training only


@dataclass(frozen=True, slots=True)
class Prompt:
    line: int
    body: Json  # Messages, and the tools that they may call.

    @property
    def key(self) -> str:
        """Return the key that equal prompts share."""
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
        except UnusablePrompt as error:
            raise Misused(f"{name}, line {number}: {error}.") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise Misused(
                f"{name}, line {number}, is no prompt.",
                'Write one JSON object a line: {"messages": […]} or {"prompt": "a text"}.',
            ) from None


def prompt_of(record: Json) -> Json:
    """Return the request that a line stands for. Raises `UnusablePrompt` for what would change its
    answer and cannot be sent, and `ValueError` or the like for what asks nothing.
    """
    chat = record
    if "prompt" in record:
        messages = [{"role": "user", "content": _text(record["prompt"])}]
    else:
        chat = record.get("input", record)  # A preference record nests it.
        messages = [
            {name: value for name, value in message.items() if name not in NOT_SENT}
            for message in chat["messages"]
        ]
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
    if not messages:
        raise ValueError("it has no message before the answer")
    for name in REFUSED:
        if chat.get(name):
            raise UnusablePrompt(f"'{name}' would change the answer and is not sent; remove it")
    body = {"messages": _with_system(chat, messages)}
    body |= {name: chat[name] for name in WITH_MESSAGES if chat.get(name) is not None}
    return with_tools(chat, body)


def _with_system(chat: Json, messages: list[Json]) -> list[Json]:
    """Return the messages behind the system prompt that stands beside them."""
    system = chat.get("system") or chat.get("system_prompt")
    if not system:
        return messages
    first = messages[0]
    if first["role"] not in ("system", "developer"):
        return [{"role": "system", "content": system}, *messages]
    if first["content"] != system:
        raise UnusablePrompt("'system' and the system message differ; keep one of the two")
    return messages


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("it is no text")
    return value
