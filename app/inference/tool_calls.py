"""Function calls in an answer: parsed if the engine gives them as a text, and written in the
client's form.
"""

import json
import re
import uuid
from collections.abc import Iterator, Set
from dataclasses import asdict, dataclass

from app.inference.rewriting import Document, Rewriter
from app.inference.tool_choice import CallPlan

END_OF_REASONING = "</think>"
CODE_FENCE = "```"
BEGINS_A_CALL = ("{", "[", "`")
MAX_CALLS = 128
MAX_CHARACTERS = 2**20  # per call; longer ones are plain text
# Call that `max_tokens` has cut; its schema puts the name first.
CUT_CALL = re.compile(r'\s*\{\s*"name"\s*:\s*("[^"\\]*")\s*,\s*"arguments"\s*:\s*')

_decoder = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class ParsedCall:
    name: str
    arguments: str  # their JSON


class HeldText:
    """Text of one choice so far, while it may become a call."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.num_characters = 0
        self.has_begun = False

    def add(self, text: str) -> None:
        self.parts.append(text)
        self.num_characters += len(text)


class ToolCallRewriter(Rewriter):
    """Stream rewriter that holds a call back until it is complete, and sends one event."""

    def __init__(self, plan: CallPlan) -> None:
        self._plan = plan
        self._held: dict[int, HeldText] = {}
        self._passing: set[int] = set()  # choices that answer with a text

    def rewrite(self, document: Document) -> None:
        for choice in document["choices"]:
            message = choice["message"]
            if calls := self._calls_in(message.get("content")):
                message |= {"content": None, "tool_calls": _write_calls(calls)}
                choice["logprobs"] = None
                self._finish(choice)
            self._write_as_asked(choice, message)

    def rewrite_event(self, event: Document) -> list[Document]:
        events = []
        for choice in event["choices"]:
            choice["delta"] = choice.get("delta") or {}
            for each in self._choices(choice):
                self._write_as_asked(each, each["delta"])
                events.append(event | {"choices": [each]})
        return events

    def _choices(self, choice: Document) -> Iterator[Document]:
        """Return the resulting choices of one event."""
        index = choice.get("index", 0)
        if self._plan.mode != "native" and index not in self._passing:
            if not self._hold(index, choice):
                return
            if choice.get("finish_reason") and (text_so_far := self._held.pop(index, None)):
                text = "".join(text_so_far.parts)
                delta: Document = {"content": text}
                if calls := self._calls_in(text):
                    delta = {"tool_calls": _write_calls(calls, is_event=True)}
                    self._finish(choice)
                yield {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        yield choice

    def _hold(self, index: int, choice: Document) -> bool:
        """Hold back the text of the event while it may become a call; return whether something is
        left of it.
        """
        delta = choice["delta"]
        text = delta.get("content")
        if not isinstance(text, str):
            return True
        text_so_far = self._held.setdefault(index, HeldText())
        text_so_far.add(text)
        is_text = text_so_far.num_characters > MAX_CHARACTERS
        if not text_so_far.has_begun and (begin := text.lstrip()):
            text_so_far.has_begun = True
            is_text |= self._plan.mode == "text" and not begin.startswith(BEGINS_A_CALL)
        if is_text:
            delta["content"] = "".join(self._held.pop(index).parts)
            self._passing.add(index)
            return True
        del delta["content"]
        choice["logprobs"] = None
        return bool(delta) or bool(choice.get("finish_reason"))

    def _finish(self, choice: Document) -> None:
        if choice.get("finish_reason") == "stop":
            choice["finish_reason"] = self._plan.finish_reason

    def _calls_in(self, content: str | None) -> list[ParsedCall]:
        if not content or self._plan.mode == "native":
            return []
        text = content.rpartition(END_OF_REASONING)[2]
        calls = _calls_of(text, self._plan.names)
        if not calls and self._plan.mode == "forced" and (cut := CUT_CALL.match(text)):
            return [ParsedCall(json.loads(cut[1], strict=False), text[cut.end() :])]
        return calls

    def _write_as_asked(self, choice: Document, message: Document) -> None:
        """Write calls as `function_call` for a client that has sent `functions`."""
        if not self._plan.is_legacy:
            return
        calls = message.pop("tool_calls", None) or ()
        for call in calls:
            if call.get("index", 0) == 0:  # there was one call at most
                message["function_call"] = call.get("function")
                break
        if choice.get("finish_reason") == "tool_calls":
            choice["finish_reason"] = "function_call"


def _calls_of(text: str, names: Set[str]) -> list[ParsedCall]:
    """Return the calls if the text holds nothing else: objects after each other, or a list."""
    text = text.strip()
    if text.startswith(CODE_FENCE) and text.endswith(CODE_FENCE):
        text = text.removeprefix(CODE_FENCE).removesuffix(CODE_FENCE).removeprefix("json").strip()
    calls: list[ParsedCall] = []
    place = 0
    while place < len(text) and len(calls) < MAX_CALLS:
        try:
            value, place = _decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            return []
        for each in value if isinstance(value, list) else [value]:
            call = _call_of(each, names)
            if call is None:
                return []
            calls.append(call)
        while place < len(text) and text[place].isspace():
            place += 1
    return calls[:MAX_CALLS]


def _call_of(value: object, names: Set[str]) -> ParsedCall | None:
    if not isinstance(value, dict) or value.keys() != {"name", "arguments"}:
        return None
    name, arguments = value["name"], value["arguments"]
    if not isinstance(name, str) or name not in names or not isinstance(arguments, dict):
        return None
    return ParsedCall(name, json.dumps(arguments, ensure_ascii=False))


def _write_calls(calls: list[ParsedCall], *, is_event: bool = False) -> list[Document]:
    written: list[Document] = []
    for i, call in enumerate(calls):
        document = {"id": f"call_{uuid.uuid4().hex}", "type": "function", "function": asdict(call)}
        written.append({"index": i} | document if is_event else document)
    return written
