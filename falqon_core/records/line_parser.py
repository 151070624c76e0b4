"""A line becomes a record: of a shape of `records.shapes`, or converted to one.

Every reader of records goes through `parse`.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from pydantic import ValidationError

from falqon_core.records.conversational import chat_of_completion, preference_of_pair
from falqon_core.records.dialects import (
    AlpacaPreference,
    AlpacaRecord,
    Converted,
    Dialect,
    ShareGptRecord,
    chat_of_conversations,
    has_roles,
    read_alpaca,
    read_sharegpt,
)
from falqon_core.records.fields import (
    SYSTEM_FIELDS,
    Rewritten,
    add_input_system,
    add_system,
    read_json_texts,
    system_of,
)
from falqon_core.records.json_positions import column_of, field_of
from falqon_core.records.jsonl import BadRecord, Unusable, bad, decode_line, parse_line
from falqon_core.records.openai_lines import Normaliser, Path, Rewrite, written_path
from falqon_core.records.refusals import REFUSED_FIELDS, advice_on_missing, refuse_formats, renaming
from falqon_core.records.shapes import (
    ChatRecord,
    CompletionRecord,
    PreferenceRecord,
    Record,
    TextRecord,
    shape_of,
)

_Written = type[Record | Converted]
_KINDS: dict[str, tuple[_Written, Dialect | None]] = {
    "messages": (ChatRecord, None),
    "preferred_output": (PreferenceRecord, None),
    "non_preferred_output": (PreferenceRecord, None),
    "conversations": (ShareGptRecord, "sharegpt"),
    "instruction": (AlpacaRecord, "alpaca"),
    "chosen": (PreferenceRecord, "chosen/rejected"),
    "rejected": (PreferenceRecord, "chosen/rejected"),
    "completion": (CompletionRecord, None),
    "prompt": (CompletionRecord, None),
    "text": (TextRecord, None),
}
_CLASSES: tuple[_Written, ...] = (*(kind for kind, _ in _KINDS.values()), AlpacaPreference)
_FIELDS = {kind: frozenset(kind.model_fields) for kind in _CLASSES}
# Every field that some kind of record has, or is refused for.
RECORD_FIELDS = (
    frozenset[str]().union(*_FIELDS.values(), SYSTEM_FIELDS, REFUSED_FIELDS)
    | _KINDS.keys()
    | {"functions"}
)
EXPECTED = (
    "an object with 'messages' (chat), 'prompt' and 'completion', 'text', or 'input', "
    "'preferred_output' and 'non_preferred_output'; Alpaca ('instruction', 'input', 'output'), "
    "ShareGPT ('conversations') and 'prompt', 'chosen' and 'rejected' are converted"
)
_WORDS = {  # Pydantic's faults by their types.
    "missing": "the field is missing",
    "extra_forbidden": "unknown field",
    "string_type": "expected text",
    "string_too_short": "the text is empty",
    "list_type": "expected a list",
    "too_short": "expected {min_length} or more in the list",
    "too_long": "expected at most {max_length} in the list",
    "dict_type": "expected an object",
    "model_type": "expected an object",
    "literal_error": "expected {expected}",
    "int_type": "expected a whole number",
    "greater_than_equal": "expected {ge} or more",
    "less_than_equal": "expected {le} or less",
    "bool_type": "expected true or false",
}
_ADVICE = {
    "missing": "add it",
    "extra_forbidden": "remove it, or correct its name",
    "string_type": "write text in quotes",
    "string_too_short": "write some text, or remove the line",
    "list_type": "write a list in square brackets",
    "too_short": "add an item, or remove the line",
    "too_long": "keep exactly one",
    "dict_type": "write an object in braces",
    "model_type": "write an object in braces",
    "literal_error": "use one of these",
    "int_type": "write 0 or 1",
    "greater_than_equal": "write 0 or 1",
    "less_than_equal": "write 0 or 1",
    "bool_type": "write true or false",
    "arguments": 'write an object as text, such as "{}"',
    "tool_call_id": "write the id of a call among the 'tool_calls' of an earlier assistant "
    "message, or remove the message",
}


class Parsed(NamedTuple):
    record: Record
    dialect: Dialect | None
    value: dict[str, Any]  # The value as the line has it.
    ignored: tuple[str, ...] = ()  # Names of its fields that train nothing.
    rewrites: frozenset[Rewrite] = frozenset()

    @property
    def kind(self) -> str:
        shape = shape_of(self.record)
        if self.dialect:
            return f"{shape} ({self.dialect})"
        return shape


def has_known_kind(names: Iterable[str]) -> bool:
    """Return True if an object with these keys is meant as a record."""
    return not _KINDS.keys().isdisjoint(names)


def parse_record(raw: bytes, line: int = 1) -> Record:
    """Read one line as a record. Raises `BadRecord`."""
    return parse(raw, line).record


def parse(raw: bytes, line: int) -> Parsed:
    """Read one line and what became of its fields. Raises `BadRecord`."""
    text = decode_line(raw, line)
    value = parse_line(text, line)
    if not isinstance(value, dict):
        message = f"expected an object, found {type(value).__name__}"
        raise bad(line, 1, "", message, f"write {EXPECTED}", "unknown_shape")
    fields, rewritten = value, Rewritten(value)
    normaliser = Normaliser()
    try:
        texts = read_json_texts(_without_nulls(value))
        fields = texts.value
        kind, dialect, rewritten = _choose(fields)
        record = kind.model_validate(normaliser.line(rewritten.value, _FIELDS[kind]))
    except Unusable as error:
        path = written_path(rewritten.locate(error.path), fields)
        raise _refusal(text, line, path, error.message, error.advice, error.code) from None
    except ValidationError as error:
        path = rewritten.locate(normaliser.locate(_path_of(error)))
        raise _fault(error, written_path(path, fields), text, fields, line) from None
    if isinstance(record, Converted):
        record = record.converted()
    rewrites = texts.rewrites | rewritten.rewrites | normaliser.rewrites
    return Parsed(record, dialect, value, tuple(normaliser.ignored), rewrites)


def _without_nulls(line: dict[str, Any]) -> dict[str, Any]:
    if len(line) == 1 or None not in line.values():
        return line
    # A preference without its prompt is to be refused as one.
    kept = {"input"} if "preferred_output" in line else set()
    return {
        name: inner
        for name, inner in line.items()
        if inner is not None or name not in RECORD_FIELDS or name in kept
    }


def _choose(line: dict[str, Any]) -> tuple[_Written, Dialect | None, Rewritten]:
    """Return the kind of a line, and the line in the fields of that kind. Raises `Unusable`."""
    refuse_formats(line)
    key = next(filter(line.__contains__, _KINDS), None)
    if key is None:
        message = f"no known kind of record: found keys {sorted(line)[:8]}"
        raise Unusable((), message, renaming(line) or f"write {EXPECTED}", "unknown_shape")
    kind, dialect = _KINDS[key]
    if len(line) == 1 and kind is ChatRecord:
        return kind, dialect, Rewritten(line)
    if kind is ShareGptRecord and has_roles(line):
        kind, dialect = ChatRecord, None
        return kind, dialect, _then(chat_of_conversations(line), add_system)
    if kind is ShareGptRecord:
        return kind, dialect, read_sharegpt(line)
    if kind is AlpacaRecord:
        if "chosen" in line or "rejected" in line:
            kind = AlpacaPreference
        return kind, dialect, read_alpaca(line)
    if dialect == "chosen/rejected":
        return kind, dialect, _then(preference_of_pair(line), add_input_system)
    if kind is PreferenceRecord:
        return kind, dialect, add_input_system(line)
    parts = (line.get(key) for key in ("prompt", "completion"))
    if kind is CompletionRecord and any(isinstance(part, list | dict) for part in parts):
        return ChatRecord, "conversational", _then(chat_of_completion(line), add_system)
    if kind is CompletionRecord and (system := system_of(line)):
        message = "a system prompt beside a prompt that is a text cannot be part of it"
        advice = "write 'prompt' as a list of messages, or begin its text with the system prompt"
        raise Unusable(system[:1], message, advice, "system_not_supported")
    if kind is ChatRecord:
        return kind, dialect, add_system(line)
    return kind, dialect, Rewritten(line)


def _then(first: Rewritten, rewrite: Callable[[dict[str, Any]], Rewritten]) -> Rewritten:
    second = rewrite(first.value)

    def locate(path: Path) -> Path:
        return first.locate(second.locate(path))

    return Rewritten(second.value, locate, first.rewrites | second.rewrites)


def _path_of(error: ValidationError) -> Path:
    first = error.errors(include_url=False)[0]
    return (*first["loc"], *first.get("ctx", {}).get("path", ()))


def _fault(
    error: ValidationError, path: Path, text: str, value: dict[str, Any], line: int
) -> BadRecord:
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ").partition(" or instance of ")[0]
    if words := _WORDS.get(first["type"]):
        message = words.format_map(first.get("ctx", {}))
    advice = _ADVICE.get(first["type"], "correct the line or remove it")
    if first["type"] == "missing" and len(path) == 1:
        advice = advice_on_missing(value, str(path[0]))
    code = "unknown_field" if first["type"] == "extra_forbidden" else "invalid_record"
    return _refusal(text, line, path, message, advice, code)


def _refusal(text: str, line: int, path: Path, message: str, advice: str, code: str) -> BadRecord:
    return bad(line, column_of(text, path), field_of(path), message, advice, code)
