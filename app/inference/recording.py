"""Answers to store: put together from the events of a stream, and handed to a queue."""

import json
from dataclasses import dataclass
from typing import Any

from app.auth.caller import Caller
from app.base.ids import new_id
from app.inference.rewriting import Document
from app.inference.schemas import ChatCompletionRequest
from app.models import AnswerKind
from app.models.stored_answer import PREFIXES
from app.stored_answers.queue import MAX_ANSWER_BYTES, AnswerQueue, NewAnswer

QUESTION_FIELDS = {"messages", "tools", "tool_choice", "parallel_tool_calls", "response_format"}


@dataclass(frozen=True, slots=True)
class Recorder:
    """Hands the answers to one request over to the queue."""

    queue: AnswerQueue
    caller: Caller
    body: ChatCompletionRequest
    kind: AnswerKind
    id: str  # without its prefix

    @property
    def public_id(self) -> str:
        return PREFIXES[self.kind] + self.id

    def keep(self, document: Document) -> None:
        question = self.body.model_dump(
            mode="json", include=QUESTION_FIELDS, exclude_none=True, exclude_unset=True
        )
        self.queue.add(
            NewAnswer(
                self.id,
                self.kind,
                self.caller.project_id,
                self.caller.key_id,
                str(document.get("model", self.body.model)),
                self.body.metadata or {},
                _dump(question),
                _dump(document),
            )
        )


def make_recorder(
    queue: AnswerQueue,
    caller: Caller,
    body: ChatCompletionRequest,
    kind: AnswerKind = AnswerKind.CHAT,
) -> Recorder:
    return Recorder(queue, caller, body, kind, new_id(""))


class ChunkCollector:
    """Puts the chunks of a stream together to a whole answer."""

    def __init__(self) -> None:
        self._shared: Document = {}
        self._choices: dict[int, _Choice] = {}
        self._num_characters = 0

    def add(self, chunk: Document) -> None:
        if not self._shared:
            self._shared = {name: chunk[name] for name in chunk if name != "choices"}
        for choice in chunk["choices"]:
            own = self._choices.setdefault(choice["index"], _Choice())
            if self._num_characters <= MAX_ANSWER_BYTES:  # a longer answer is not kept
                self._num_characters += own.add(choice)

    def document(self, usage: Document) -> Document:
        choices = [own.document(index) for index, own in sorted(self._choices.items())]
        return self._shared | {"object": "chat.completion", "choices": choices, "usage": usage}

    @property
    def is_whole(self) -> bool:
        return self._num_characters <= MAX_ANSWER_BYTES


class _Choice:
    """Texts and calls of one choice so far."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}
        self._calls: dict[int, Document] = {}
        self._function_call: Document | None = None
        self._finish_reason: str | None = None

    def add(self, choice: Document) -> int:
        """Add a part of the choice; return its characters."""
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        num_characters = 0
        for name, value in (choice.get("delta") or {}).items():
            if name == "tool_calls":
                num_characters += sum(map(self._add_call, value or ()))
            elif name == "function_call" and isinstance(value, dict):
                self._function_call = _joined(self._function_call or {}, value)
                num_characters += len(str(value.get("arguments") or ""))
            elif isinstance(value, str) and name != "role":
                self._texts.setdefault(name, []).append(value)
                num_characters += len(value)
        return num_characters

    def document(self, index: int) -> Document:
        message: Document = {"role": "assistant", "content": None}
        message |= {name: "".join(parts) for name, parts in self._texts.items()}
        if self._calls:
            message["tool_calls"] = [call for _, call in sorted(self._calls.items())]
        if self._function_call is not None:
            message["function_call"] = self._function_call
        return {
            "index": index,
            "message": message,
            "logprobs": None,
            "finish_reason": self._finish_reason,
        }

    def _add_call(self, part: Document) -> int:
        call = self._calls.setdefault(part.get("index", 0), {"type": "function", "function": {}})
        if part.get("id"):
            call["id"] = part["id"]
        function = part.get("function") or {}
        call["function"] = _joined(call["function"], function)
        return len(str(function.get("arguments") or ""))


def _joined(call: Document, part: Document) -> Document:
    """Return a function call with a further part of its name and arguments."""
    return {name: (call.get(name) or "") + (part.get(name) or "") for name in ("name", "arguments")}


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
