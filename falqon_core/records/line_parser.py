"""A line becomes a record: of a shape of `records.shapes`, or converted to one.

Every reader of records goes through `parse`.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from pydantic import ValidationError

from falqon_core.records.conversational import chat_of_completion, preference_of_pair
from falqon_core.records.dialects import AlpacaRecord, Converted, Dialect, ShareGptRecord
from falqon_core.records.json_positions import column_of, field_of
from falqon_core.records.jsonl import BadRecord, Unusable, bad, decode_line, parse_line
from falqon_core.records.openai_lines import Normaliser, Path, Rewrite, written_path
from falqon_core.records.shapes import (
    ChatRecord,
    CompletionRecord,
    PreferenceRecord,
    Record,
    TextRecord,
    shape_of,
)

_Written = (
    type[ChatRecord]
    | type[CompletionRecord]
    | type[TextRecord]
    | type[PreferenceRecord]
    | type[AlpacaRecord]
    | type[ShareGptRecord]
)
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
_FIELDS = {kind: frozenset(kind.model_fields) for kind, _ in _KINDS.values()}
# every field that some kind of record has
RECORD_FIELDS = frozenset[str]().union(*_FIELDS.values()) | _KINDS.keys() | {"functions"}
EXPECTED = (
    "an object with 'messages' (chat), 'prompt' and 'completion', 'text', or 'input', "
    "'preferred_output' and 'non_preferred_output'; "
    "Alpaca ('instruction', 'input', 'output'), ShareGPT ('conversations') and 'prompt', 'chosen' "
    "and 'rejected' are converted"
)
_BATCH_FIELDS = ("custom_id", "method", "url")
_BATCH_REQUEST = (
    "this is a request for the Batch API, which asks a model and teaches it nothing",
    "write what stands in 'body.messages' as 'messages', and behind it the assistant's answer as "
    "the last message",
    "batch_request_not_supported",
)
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
    value: dict[str, Any]  # as the line has it
    ignored: tuple[str, ...] = ()  # the names of its fields that train nothing
    rewrites: frozenset[Rewrite] = frozenset()

    @property
    def kind(self) -> str:
        shape = shape_of(self.record)
        if self.dialect:
            return f"{shape} ({self.dialect})"
        return shape


def has_known_kind(names: Iterable[str]) -> bool:
    """Return whether an object with these keys is meant as a record."""
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
    key = next(filter(value.__contains__, _KINDS), None)
    if key is None and _is_batch_request(value):
        column = column_of(text, ("body",))
        raise bad(line, column, "body", *_BATCH_REQUEST)
    if key is None:
        message = f"no known kind of record: found keys {sorted(value)[:8]}"
        raise bad(line, 1, "", message, f"write {EXPECTED}", "unknown_shape")
    locate: Callable[[Path], Path] = _same_path
    try:
        kind, dialect = _KINDS[key]
        rewritten = value
        if dialect == "chosen/rejected":
            rewritten, locate = preference_of_pair(value)
        elif kind is CompletionRecord and _is_conversational(value):
            kind, dialect = ChatRecord, "conversational"
            rewritten, locate = chat_of_completion(value)
        normaliser = Normaliser()
        written = kind.model_validate(normaliser.line(rewritten, _FIELDS[kind]))
    except (Unusable, ValidationError) as error:
        raise _fault(error, locate, text, value, line) from None
    record = written.converted() if isinstance(written, Converted) else written
    ignored = tuple(normaliser.ignored)
    return Parsed(record, dialect, value, ignored, frozenset(normaliser.rewrites))


def _is_batch_request(value: dict[str, Any]) -> bool:
    return isinstance(value.get("body"), dict) and not value.keys().isdisjoint(_BATCH_FIELDS)


def _is_conversational(value: dict[str, Any]) -> bool:
    return any(isinstance(value.get(key), list | dict) for key in ("prompt", "completion"))


def _same_path(path: Path) -> Path:
    return path


def _fault(
    error: Unusable | ValidationError,
    locate: Callable[[Path], Path],
    text: str,
    value: Any,
    line: int,
) -> BadRecord:
    if isinstance(error, Unusable):
        path, message, advice, code = error.path, error.message, error.advice, error.code
    else:
        first = error.errors(include_url=False)[0]
        path = (*first["loc"], *first.get("ctx", {}).get("path", ()))
        message = first["msg"].removeprefix("Value error, ").partition(" or instance of ")[0]
        advice = _ADVICE.get(first["type"], "correct the line or remove it")
        code = "unknown_field" if first["type"] == "extra_forbidden" else "invalid_record"
    path = written_path(locate(path), value)
    return bad(line, column_of(text, path), field_of(path), message, advice, code)
