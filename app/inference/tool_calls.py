"""Function calls in an answer: parsed if the engine gives them as a text, and written in the
client's form.
"""

import json
import re
import uuid
from collections.abc import Iterator, Set
from dataclasses import asdict, dataclass

from app.inference.rewriting import Document, Rewriter
from app.inference.tool_choice import CallPlan, Mode

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


class ChoiceText:
    """Text of one choice, part by part. What may be a call is held back, and the rest passes: a
    call that is not forced comes first, or behind the reasoning.
    """

    def __init__(self, mode: Mode) -> None:
        self._mode = mode
        self._held: list[str] = []
        self._num_held = 0  # characters
        self._may_be_call: bool | None = None  # None: so far it is all space
        self._passed = ""  # the last of it, which the next part may make an end of reasoning

    @property
    def is_held(self) -> bool:
        return bool(self._held)

    def take(self) -> str:
        """Return what is held back, which is over."""
        text = "".join(self._held)
        self._held.clear()
        self._num_held = 0
        return text

    def add(self, part: str) -> str:
        """Return what passes of the text so far."""
        self._held.append(part)
        self._num_held += len(part)
        if self._may_be_call is None and (begin := part.lstrip()):
            self._may_be_call = self._mode == "forced" or begin.startswith(BEGINS_A_CALL)
        if self._may_be_call is not False and self._num_held <= MAX_CHARACTERS:
            return ""
        self._may_be_call = False
        text = self.take()
        _, end, rest = (self._passed + text).rpartition(END_OF_REASONING)
        if self._mode == "forced" or not end:
            self._passed = (self._passed + text)[1 - len(END_OF_REASONING) :]
            return text
        self._may_be_call = None
        self._passed = ""
        return text.removesuffix(rest) + self.add(rest)


class ToolCallRewriter(Rewriter):
    """Stream rewriter that holds a call back until it is complete, and sends one event."""

    def __init__(self, plan: CallPlan) -> None:
        self._plan = plan
        self._texts: dict[int, ChoiceText] = {}

    def rewrite(self, document: Document) -> None:
        for choice in document["choices"]:
            message = choice["message"]
            reasoning, calls = self._split(message.get("content"))
            if calls:
                message |= {"content": reasoning or None, "tool_calls": _write_calls(calls)}
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
        if self._plan.mode == "native":
            yield choice
            return
        text = self._texts.setdefault(choice.get("index", 0), ChoiceText(self._plan.mode))
        delta = choice["delta"]
        content = delta.get("content")
        if isinstance(content, str):
            delta["content"] = text.add(content)
        if not text.is_held:
            yield choice
            return
        choice["logprobs"] = None
        if not delta.get("content"):
            delta.pop("content", None)
        deltas = [delta]
        if choice.get("finish_reason"):
            deltas.append(self._delta_of(text.take(), choice))
        for each in filter(None, deltas):
            yield choice | {"delta": each, "finish_reason": None}
        if choice.get("finish_reason"):
            yield choice | {"delta": {}}

    def _delta_of(self, text: str, choice: Document) -> Document:
        """Return the calls in the last text of a choice, which then ends with them, or the text."""
        reasoning, calls = self._split(text)
        if not calls:
            return {"content": text}
        self._finish(choice)
        written: Document = {"tool_calls": _write_calls(calls, is_event=True)}
        return {"content": reasoning} | written if reasoning else written

    def _finish(self, choice: Document) -> None:
        if choice.get("finish_reason") == "stop":
            choice["finish_reason"] = self._plan.finish_reason

    def _split(self, content: str | None) -> tuple[str, list[ParsedCall]]:
        """Return the reasoning with its end, and the calls behind it; none in an answer that is a
        text.
        """
        if not content or self._plan.mode == "native":
            return "", []
        reasoning, end, text = content.rpartition(END_OF_REASONING)
        calls = _calls_of(text, self._plan.names)
        if not calls and self._plan.mode == "forced" and (cut := CUT_CALL.match(text)):
            calls = [ParsedCall(json.loads(cut[1], strict=False), text[cut.end() :])]
        return reasoning + end, calls

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
