"""Fields of a line before its shape is known: lists that stand in it as JSON in a text, nulls, and
a system prompt beside the turns.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from falqon_core.records.jsonl import BadRecord, Unusable, parse_line
from falqon_core.records.openai_lines import Path, Rewrite

# Fields whose text is JSON: a table of texts has no other way to hold a list.
JSON_FIELDS = frozenset(
    (
        "messages",
        "conversations",
        "tools",
        "functions",
        "preferred_output",
        "non_preferred_output",
        "history",
    )
)
SYSTEM_FIELDS = ("system", "system_prompt")


def same_path(path: Path) -> Path:
    return path


class Rewritten(NamedTuple):
    """A line in other fields; `locate` leads a path in it back to what was written."""

    value: dict[str, Any]
    locate: Callable[[Path], Path] = same_path
    rewrites: frozenset[Rewrite] = frozenset()


def read_json_texts(line: dict[str, Any]) -> Rewritten:
    """Return the line with what its texts of JSON hold. Raises `Unusable`."""
    values: dict[str, Any] = {}
    for name, text in line.items():
        if not isinstance(text, str) or (text and text[0] not in "[{"):
            continue
        if name in JSON_FIELDS or (name == "input" and "preferred_output" in line):
            values[name] = _parsed(text, name) if text else None
    if not values:
        return Rewritten(line)
    rewrites: set[Rewrite] = set()
    if any(value is not None for value in values.values()):
        rewrites.add("json_text")
    return Rewritten(line | values, same_path, frozenset(rewrites))


def _parsed(text: str, name: str) -> Any:
    try:
        return parse_line(text, 1)
    except BadRecord as error:
        reason = error.error.message.removeprefix("not JSON: ")
        advice = "write a list in square brackets, not a text"
        raise Unusable((name,), f"the text is not JSON: {reason}", advice) from None


def system_of(line: dict[str, Any]) -> tuple[str, Any] | None:
    """Return the field of a line's system prompt, and the prompt. Raises `Unusable`."""
    prompts = [(name, line[name]) for name in SYSTEM_FIELDS if line.get(name)]
    if not prompts:
        return None
    for name, prompt in prompts:
        if not isinstance(prompt, str | list):
            message = "a system prompt is a text"
            raise Unusable((name,), message, "write text in quotes", "invalid_record")
    if len(prompts) > 1 and prompts[0][1] != prompts[1][1]:
        raise _conflict(prompts[1][0], "'system' and 'system_prompt'")
    return prompts[0]


def without_system(line: dict[str, Any]) -> dict[str, Any]:
    return {name: inner for name, inner in line.items() if name not in SYSTEM_FIELDS}


def refuse_second_system(system: tuple[str, Any], first: Any, *, role: str, content: str) -> bool:
    """Return True if `first`, a message or a turn, is the same system prompt. Raises `Unusable` for
    another one."""
    if not isinstance(first, dict) or first.get(role) not in ("system", "developer"):
        return False
    if not first.get(content):
        return False
    name, prompt = system
    if first[content] != prompt:
        raise _conflict(name, f"'{name}' and the first message, which is a system message,")
    return True


def add_system(line: dict[str, Any], path: tuple[str, ...] = ()) -> Rewritten:
    """Return the chat at `path` with the line's system prompt in front. Raises `Unusable`."""
    system = system_of(line)
    if system is None:
        return Rewritten(without_system(line))
    chat = line[path[0]] if path else line
    messages = chat.get("messages")
    if not isinstance(messages, list) or not messages:  # The shape refuses it.
        return Rewritten(without_system(line))
    if refuse_second_system(system, messages[0], role="role", content="content"):
        return Rewritten(without_system(line))
    name, prompt = system
    first = (*path, "messages")

    def locate(fault: Path) -> Path:
        if fault[: len(first)] != first or len(fault) == len(first):
            return fault
        index = fault[len(first)]
        assert isinstance(index, int), "messages are a list"
        rest = fault[len(first) + 1 :]
        if index:
            return (*first, index - 1, *rest)
        return (name, *rest[1:])

    chat = chat | {"messages": [{"role": "system", "content": prompt}, *messages]}
    value = without_system(line) | ({path[0]: chat} if path else chat)
    return Rewritten(without_system(value), locate, frozenset(("system_field",)))


def add_input_system(line: dict[str, Any]) -> Rewritten:
    """Do the same for a preference record, whose prompt may stand beside 'input' or in it."""
    if not isinstance(line.get("input"), dict):
        return Rewritten(line)
    try:
        inner = add_system(line["input"])
    except Unusable as error:
        path = ("input", *error.path)
        raise Unusable(path, error.message, error.advice, error.code) from None
    outer = add_system(line | {"input": inner.value}, ("input",))

    def locate(fault: Path) -> Path:
        match outer.locate(fault):
            case ("input", *rest):
                return ("input", *inner.locate(tuple(rest)))
            case path:
                return path

    return Rewritten(outer.value, locate, inner.rewrites | outer.rewrites)


def _conflict(name: str, both: str) -> Unusable:
    message = f"{both} are two different system prompts"
    return Unusable((name,), message, "keep one of the two", "conflicting_system")
