"""Forms of a line that OpenAI's clients and logs write, in the fields of `records.shapes`.

An equivalent form is rewritten and counted by its name, a field that trains nothing is left out and
counted by its name, and a feature that this service does not train is refused with a code of its
own. One pass, linear in the values of a line; a plain message passes as it is.
"""

from collections.abc import Set
from typing import Any, Literal

from falqon_core.records.jsonl import Unusable
from falqon_core.records.refusals import refuse_features
from falqon_core.records.tool_calls import CallRewrite, ToolCalls
from falqon_core.records.weights import weight_of, whole_weight

LineRewrite = Literal[
    "text_parts",
    "developer_role",
    "reasoning_field",
    "train_field",
    "empty_system",
    "system_field",
    "json_text",
    "conversations_field",
]
Rewrite = LineRewrite | CallRewrite
REWRITE_RULES: dict[Rewrite, str] = {
    "text_parts": "'content' as a list of text parts is read as one text",
    "developer_role": "role 'developer' is read as 'system'",
    "functions": "'functions', 'function_call' and role 'function' are read as 'tools', "
    "'tool_calls' and role 'tool'",
    "arguments_as_object": "arguments written as an object are read as their JSON",
    "reasoning_field": "'reasoning' and 'thinking' are read as 'reasoning_content'",
    "tool_call_ids": "a call without an id is given one, and a tool's answer without one belongs "
    "to the earliest call that has no answer yet, of the function that it names",
    "train_field": "'train': false of an answer is read as weight 0",
    "empty_system": "a system message without text is left out",
    "system_field": "'system' beside the turns is read as the first message",
    "json_text": "lists written as JSON in a text are read as lists",
    "conversations_field": "'conversations' of turns with 'role' and 'content' are read as "
    "'messages'",
}
Path = tuple[int | str, ...]

_CONVERSATIONS = ("messages", "preferred_output", "non_preferred_output")
_PLAIN_ROLES = ("system", "user", "assistant")
_TEXT_PARTS = ("text", "input_text", "output_text")
_REASONING = ("reasoning_content", "reasoning", "thinking")
# Logs keep these of an answer, and no template reads them.
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
    "messages": ("conversations",),
    "system": ("system_prompt",),
    "weight": ("train",),
    "tools": ("functions",),
    "tool_calls": ("function_call",),
    "reasoning_content": ("reasoning", "thinking"),
}


class Normaliser:
    """Rewrites one line; `ignored` and `rewrites` name what it left out and what it rewrote."""

    def __init__(self) -> None:
        self.ignored: list[str] = []
        self._rewrites: set[LineRewrite] = set()
        self._calls = ToolCalls()
        # Places of a chat's messages, if some were left out.
        self._kept: dict[Path, list[int]] = {}

    @property
    def rewrites(self) -> frozenset[Rewrite]:
        return frozenset(self._rewrites | self._calls.rewrites)

    def locate(self, path: Path) -> Path:
        """Lead a path in what `line` returned back to what it was given."""
        for chat, places in self._kept.items():
            if path[: len(chat)] == chat and len(path) > len(chat):
                index = path[len(chat)]
                assert isinstance(index, int), "messages are a list"
                return (*chat, places[index], *path[len(chat) + 1 :])
        return path

    def line(self, value: dict[str, Any], fields: Set[str]) -> dict[str, Any]:
        """Return the line with those of its fields that its shape has. Raises `Unusable`."""
        messages = value.get("messages")
        if len(value) == 1 and isinstance(messages, list) and all(map(_is_plain, messages)):
            return value
        refuse_features(value, fields)
        result = self._chat(value, fields, ())
        if "preferred_output" in fields and isinstance(result.get("input"), dict):
            result["input"] = self._chat(result["input"], _CHAT_FIELDS, ("input",))
        num_ids = self._calls.num_ids
        for key in _CONVERSATIONS:
            if isinstance(messages := result.get(key), list) and messages:
                self._calls.num_ids = num_ids  # Equal answers must stay equal.
                result[key] = self.messages(messages, (key,))
        return result

    def messages(self, messages: list[Any], path: Path) -> list[Any]:
        kept: list[Any] = []
        places: list[int] = []
        for index, message in enumerate(messages):
            if not _is_plain(message):
                message = self._message(message, (*path, index))
                if _is_empty_system(message):
                    self._rewrites.add("empty_system")
                    continue
            kept.append(message)
            places.append(index)
        if len(kept) < len(messages):
            self._kept[path] = places
        return kept

    def _chat(self, chat: dict[str, Any], fields: Set[str], path: Path) -> dict[str, Any]:
        result = chat.copy()
        if not fields >= chat.keys():
            result = {key: inner for key, inner in chat.items() if key in fields}
            for key in chat:
                if key not in fields and not (key == "functions" and "tools" in fields):
                    self._ignore(path, key)
            if "tools" in fields and chat.get("functions") is not None:
                result["tools"] = self._tools(chat, path)
        if path and isinstance(messages := result.get("messages"), list):
            result["messages"] = self.messages(messages, (*path, "messages"))
        return result

    def _ignore(self, path: Path, key: str) -> None:
        parts = ("[]" if isinstance(part, int) else f".{part}" for part in (*path, key))
        self.ignored.append("".join(parts).removeprefix("."))

    def _tools(self, chat: dict[str, Any], path: Path) -> Any:
        functions = chat["functions"]
        if chat.get("tools") is not None:
            message = "'functions' and 'tools' say the same in two ways"
            raise Unusable((*path, "functions"), message, "keep 'tools'", "invalid_record")
        self._calls.rewrites.add("functions")
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
            if key == "train" or (key == "weight" and message.get("train") is not None):
                continue
            if key in _LOGGED:
                self._ignore(path, key)
            elif key in _REASONING:
                self._add_reasoning(result, key, inner, path)
            elif key == "function_call":
                result["tool_calls"] = self._calls.read_function_call(message, path)
            else:
                result[key] = self._value(key, inner, path)
        if message.get("train") is not None:
            self._rewrites.add("train_field")
            if (weight := weight_of(message, path, is_answer=role == "assistant")) is not None:
                result["weight"] = weight
        if role == "developer":
            self._rewrites.add("developer_role")
            result["role"] = "system"
        elif role == "function":
            self._calls.read_function_answer(result, path)
        elif role == "tool":
            self._calls.read_answer(result)
        return result

    def _value(self, key: str, inner: Any, path: Path) -> Any:
        match key:
            case "content" if isinstance(inner, list):
                return self._text(inner, (*path, key))
            case "tool_calls" if isinstance(inner, list):
                return [self._call(call, (*path, key, i)) for i, call in enumerate(inner)]
            case "weight" if isinstance(inner, float):
                return whole_weight(inner, (*path, key))
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
        self._rewrites.add("text_parts")
        if len(texts) > 1:
            return texts
        return "".join(texts)

    def _add_reasoning(self, result: dict[str, Any], key: str, inner: Any, path: Path) -> None:
        if result.setdefault("reasoning_content", inner) != inner:
            message = "two fields of reasoning differ"
            raise Unusable((*path, key), message, "keep one of the two", "invalid_record")
        if key != "reasoning_content":
            self._rewrites.add("reasoning_field")

    def _call(self, call: Any, path: Path) -> Any:
        if isinstance(call, dict) and call.get("index") is not None:  # A stream numbers its calls.
            self._ignore(path, "index")
            call = {key: inner for key, inner in call.items() if key != "index"}
        return self._calls.read(call, path)


_CHAT_FIELDS = frozenset(("messages", "tools", "parallel_tool_calls"))


def written_path(path: Path, value: Any) -> Path:
    """Return the path in the line as it is written, for the value at `path` of the rewritten one,
    as far as the line has it."""
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
    """Return True if there is nothing to rewrite, as in most messages."""
    return (
        isinstance(message, dict)
        and len(message) == 2
        and message.get("role") in _PLAIN_ROLES
        and isinstance(message.get("content"), str)
        and (message["content"] != "" or message["role"] != "system")
    )


def _is_empty_system(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and len(message) == 2
        and message.get("role") == "system"
        and message.get("content") == ""
    )


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
    advice = "write parts of type 'text'"
    if kind is None:
        message = "a part of the content has no 'type'"
        advice = 'write {"type": "text", "text": …}, or the content as a text'
    return Unusable(path, message, advice, "content_part_not_supported")
