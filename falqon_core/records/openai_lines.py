"""What OpenAI's clients and logs write into a line, in the fields of `records.shapes`.

What means the same is rewritten and counted by its name, what trains nothing is left out and
counted by the field's name, and a feature that this service does not train is refused with a code
of its own. One pass, linear in the values of a line; a plain message passes as it is.
"""

import json
from collections.abc import Set
from typing import Any, Literal

from falqon_core.records.jsonl import Unusable

Rewrite = Literal[
    "text_parts", "developer_role", "functions", "arguments_as_object", "reasoning_field"
]
REWRITE_RULES: dict[Rewrite, str] = {
    "text_parts": "'content' as a list of text parts is read as one text",
    "developer_role": "role 'developer' is read as 'system'",
    "functions": "'functions', 'function_call' and role 'function' are read as 'tools', "
    "'tool_calls' and role 'tool'",
    "arguments_as_object": "arguments written as an object are read as their JSON",
    "reasoning_field": "'reasoning' and 'thinking' are read as 'reasoning_content'",
}
Path = tuple[int | str, ...]

_CONVERSATIONS = ("messages", "preferred_output", "non_preferred_output")
_TARGETS = (
    "messages",
    "preferred_output",
    "non_preferred_output",
    "conversations",
    "completion",
    "chosen",
    "rejected",
)
_PLAIN_ROLES = ("system", "user", "assistant")
_TEXT_PARTS = ("text", "input_text", "output_text")
_REASONING = ("reasoning_content", "reasoning", "thinking")
# what logs keep of an answer, and what no template reads
_LOGGED = ("annotations", "id", "type", "status", "reasoning_details")
_MAY_BE_EMPTY = (*_LOGGED, *_REASONING, "refusal", "audio", "function_call")
_NO_IMAGES = ("vision_not_supported", "images", "remove the images, or the line")
_NO_AUDIO = ("audio_not_supported", "audio", "write what is said as text, or remove the line")
_NO_FILES = (
    "file_parts_not_supported",
    "files inside messages",
    "write what the model reads of the file as text, or remove the line",
)
_UNSUPPORTED_PARTS = {
    "image_url": _NO_IMAGES,
    "input_image": _NO_IMAGES,
    "image_file": _NO_IMAGES,
    "image": _NO_IMAGES,
    "input_audio": _NO_AUDIO,
    "audio_url": _NO_AUDIO,
    "audio": _NO_AUDIO,
    "input_file": _NO_FILES,
    "file": _NO_FILES,
}
_WRITTEN_AS = {
    "tools": ("functions",),
    "tool_calls": ("function_call",),
    "reasoning_content": ("reasoning", "thinking"),
}


class Normaliser:
    """Rewrites one line; `ignored` and `rewrites` name what it left out and what it rewrote."""

    def __init__(self) -> None:
        self.ignored: list[str] = []
        self.rewrites: set[Rewrite] = set()
        self._call_ids: dict[str, str] = {}  # by the function's name, of its last `function_call`
        self._num_calls = 0

    def line(self, value: dict[str, Any], fields: Set[str]) -> dict[str, Any]:
        """Return the line with those of its fields that its shape has. Raises `Unusable`."""
        messages = value.get("messages")
        if len(value) == 1 and isinstance(messages, list) and all(map(_is_plain, messages)):
            return value
        _refuse_features(value, fields)
        result = self._chat(value, fields, ())
        if "preferred_output" in fields and isinstance(result.get("input"), dict):
            result["input"] = self._chat(result["input"], _CHAT_FIELDS, ("input",))
        for key in _CONVERSATIONS:
            if isinstance(messages := result.get(key), list) and messages:
                result[key] = self.messages(messages, (key,))
        return result

    def messages(self, messages: list[Any], path: Path) -> list[Any]:
        return [
            message if _is_plain(message) else self._message(message, (*path, index))
            for index, message in enumerate(messages)
        ]

    def _chat(self, chat: dict[str, Any], fields: Set[str], path: Path) -> dict[str, Any]:
        result = chat.copy()
        if not fields >= chat.keys():
            result = {key: inner for key, inner in chat.items() if key in fields}
            self._leave_out(chat, fields, path)
            if "tools" in fields and chat.get("functions") is not None:
                result["tools"] = self._tools(chat, path)
        if path and isinstance(messages := result.get("messages"), list):
            result["messages"] = self.messages(messages, (*path, "messages"))
        return result

    def _leave_out(self, chat: dict[str, Any], fields: Set[str], path: Path) -> None:
        for key in chat:
            if key not in fields and not (key == "functions" and "tools" in fields):
                self._ignore(path, key)

    def _ignore(self, path: Path, key: str) -> None:
        parts = ("[]" if isinstance(part, int) else f".{part}" for part in (*path, key))
        self.ignored.append("".join(parts).removeprefix("."))

    def _tools(self, chat: dict[str, Any], path: Path) -> Any:
        functions = chat["functions"]
        if chat.get("tools") is not None:
            message = "'functions' and 'tools' say the same in two ways"
            raise Unusable((*path, "functions"), message, "keep 'tools'", "invalid_record")
        self.rewrites.add("functions")
        if not isinstance(functions, list):
            return functions
        return [
            {"type": "function", "function": function} if isinstance(function, dict) else function
            for function in functions
        ]

    def _message(self, message: Any, path: Path) -> Any:
        if not isinstance(message, dict):
            return message
        role = message.get("role")
        result: dict[str, Any] = {}
        for key, inner in message.items():
            if inner is None or (key in _MAY_BE_EMPTY and not inner):
                continue
            if key == "tool_calls" and role == "assistant" and inner == []:
                continue
            if key in _LOGGED:
                self._ignore(path, key)
            elif key in _REASONING:
                self._add_reasoning(result, key, inner, path)
            elif key == "function_call":
                self._add_call(result, message, path)
            else:
                result[key] = self._value(key, inner, path)
        if role == "developer":
            self.rewrites.add("developer_role")
            result["role"] = "system"
        elif role == "function":
            self._make_tool_answer(result, path)
        return result

    def _value(self, key: str, inner: Any, path: Path) -> Any:
        match key:
            case "content" if isinstance(inner, list):
                return self._text(inner, (*path, key))
            case "tool_calls" if isinstance(inner, list):
                return [self._call(call, (*path, key, i)) for i, call in enumerate(inner)]
            case "weight" if isinstance(inner, float):
                return _whole_weight(inner, (*path, key))
            case "refusal":
                raise _refusal((*path, key))
            case "audio":
                raise _unsupported((*path, key), _NO_AUDIO)
        return inner

    def _text(self, parts: list[Any], path: Path) -> Any:
        """Return the texts of all parts, or the text where there is only one."""
        texts: list[str] = []
        for index, part in enumerate(parts):
            if not isinstance(part, dict):
                message = "a part of the content is no object"
                advice = 'write {"type": "text", "text": …}, or the content as a text'
                raise Unusable((*path, index), message, advice, "invalid_record")
            kind = part.get("type")
            if kind not in _TEXT_PARTS:
                raise _unsupported_part(kind, (*path, index))
            if not isinstance(text := part.get("text"), str):
                message = "a text part needs its 'text'"
                advice = "write text in quotes"
                raise Unusable((*path, index, "text"), message, advice, "invalid_record")
            for key, inner in part.items():
                if key not in ("type", "text") and inner:
                    self._ignore((*path, index), key)
            texts.append(text)
        self.rewrites.add("text_parts")
        if len(texts) > 1:
            return texts
        return "".join(texts)

    def _add_reasoning(self, result: dict[str, Any], key: str, inner: Any, path: Path) -> None:
        if result.setdefault("reasoning_content", inner) != inner:
            message = "two fields of reasoning differ"
            raise Unusable((*path, key), message, "keep one of the two", "invalid_record")
        if key != "reasoning_content":
            self.rewrites.add("reasoning_field")

    def _add_call(self, result: dict[str, Any], message: dict[str, Any], path: Path) -> None:
        if message.get("tool_calls"):
            text = "'function_call' and 'tool_calls' say the same in two ways"
            raise Unusable((*path, "function_call"), text, "keep 'tool_calls'", "invalid_record")
        self.rewrites.add("functions")
        call_id = f"call{self._num_calls:05d}"  # nine letters and digits, as some templates demand
        self._num_calls += 1
        function = message["function_call"]
        if isinstance(function, dict):
            if isinstance(name := function.get("name"), str):
                self._call_ids[name] = call_id
            function = self._function(function)
        result["tool_calls"] = [{"id": call_id, "type": "function", "function": function}]

    def _make_tool_answer(self, result: dict[str, Any], path: Path) -> None:
        self.rewrites.add("functions")
        result["role"] = "tool"
        name = result.get("name")
        call_id = self._call_ids.get(name) if isinstance(name, str) else None
        if call_id is None:
            message = "a message of role 'function' must name a function that was called before"
            advice = "write the function's 'name', or remove the message"
            raise Unusable(path, message, advice, "invalid_record")
        result["tool_call_id"] = call_id

    def _call(self, call: Any, path: Path) -> Any:
        if not isinstance(call, dict):
            return call
        if call.get("type") == "custom":
            message = "custom tools are not supported"
            advice = "write the call as a function with JSON arguments, or remove the line"
            raise Unusable((*path, "type"), message, advice, "custom_tools_not_supported")
        result = {key: inner for key, inner in call.items() if inner is not None}
        if result.pop("index", None) is not None:  # of a stream
            self._ignore(path, "index")
        if isinstance(function := result.get("function"), dict):
            result["function"] = self._function(function)
        return result

    def _function(self, function: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(arguments := function.get("arguments"), dict):
            return function
        self.rewrites.add("arguments_as_object")
        return function | {"arguments": json.dumps(arguments, ensure_ascii=False)}


_CHAT_FIELDS = frozenset(("messages", "tools", "parallel_tool_calls"))


def written_path(path: Path, value: Any) -> Path:
    """Return where in the line, as it is written, the value at `path` of the rewritten one stands,
    as far as the line has it.
    """
    written: list[int | str] = []
    for part in path:
        if isinstance(part, int):
            if isinstance(value, list):
                if part >= len(value):
                    break
                written.append(part)
                value = value[part]
            continue
        if not isinstance(value, dict):
            break
        names = (part, *_WRITTEN_AS.get(part, ()))
        name = next((name for name in names if value.get(name)), part)
        if name == "function" and name not in value:  # a `function_call` has no such level
            continue
        written.append(name)
        value = value.get(name)
    return tuple(written)


def _is_plain(message: Any) -> bool:
    """Return whether there is nothing to rewrite, as in most messages."""
    return (
        isinstance(message, dict)
        and len(message) == 2
        and message.get("role") in _PLAIN_ROLES
        and isinstance(message.get("content"), str)
    )


def _refuse_features(value: dict[str, Any], fields: Set[str]) -> None:
    if "text" in fields or len(value) == 1:
        return
    for key in _TARGETS:
        if key in value and key not in fields:
            message = "the line has targets of two shapes"
            raise Unusable((key,), message, "keep those of one", "ambiguous_record")
    if value.get("reference_answer") is not None:
        message = "reinforcement fine-tuning, which grades answers, is not supported"
        advice = "write the wanted answer as the last assistant message and remove the field"
        raise Unusable(("reference_answer",), message, advice, "reinforcement_not_supported")
    for key in ("label", "kto_tag"):
        if isinstance(value.get(key), bool):
            message = "answers judged one by one (KTO) are not supported"
            advice = "keep the good ones without the field, or write pairs for method dpo"
            raise Unusable((key,), message, advice, "kto_not_supported")
    if value.get("weight") not in (None, 1):
        message = "a weight of a whole line is not supported"
        raise Unusable(
            ("weight",), message, "repeat or remove the line", "line_weight_not_supported"
        )
    if "preferred_output" in fields and (value.get("tools") or value.get("functions")):
        message = "the tools of a preference record belong into 'input'"
        key = "tools" if value.get("tools") else "functions"
        raise Unusable((key,), message, "move them there", "invalid_record")
    if "instruction" in fields and value.get("history"):
        message = "the history of an Alpaca line is not supported"
        raise Unusable(("history",), message, "write 'messages'", "history_not_supported")
    if "conversations" in fields and value.get("tools"):
        message = "tools in ShareGPT are not supported"
        raise Unusable(("tools",), message, "write 'messages'", "sharegpt_tools_not_supported")


def _whole_weight(weight: float, path: Path) -> int:
    if weight in (0, 1):
        return int(weight)
    message = "a weight between 0 and 1 is not supported"
    raise Unusable(path, message, "write 0 or 1", "fractional_weight_not_supported")


def _refusal(path: Path) -> Unusable:
    message = "a refusal as what is learned is not supported"
    advice = "write its text as 'content' if the model shall say it, or remove the line"
    return Unusable(path, message, advice, "refusal_not_supported")


def _unsupported(path: Path, refusal: tuple[str, str, str]) -> Unusable:
    code, what, advice = refusal
    return Unusable(path, f"{what}: not supported, only text is trained", advice, code)


def _unsupported_part(kind: Any, path: Path) -> Unusable:
    if kind == "refusal":
        return _refusal(path)
    if isinstance(kind, str) and kind in _UNSUPPORTED_PARTS:
        return _unsupported(path, _UNSUPPORTED_PARTS[kind])
    message = f"a part of type {kind!r} is not supported"
    return Unusable(path, message, "write parts of type 'text'", "content_part_not_supported")
