"""A line becomes a record, and a whole file is checked: what is wrong, where, and what to do.

Records have the shapes of `records.shapes`, or are written in a dialect of `records.dialects` and converted; one file keeps to one of
them. `read_records` is the only reader: the check of an upload and the trainer both go through it, so what the report shows is what is
trained. The check runs in constant memory and lists at most `MAX_ERRORS` faults. What is given up: no tokenizer here, so token counts,
truncation and templates belong to `falqon_core.data`.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from falqon_core.contract.config import MAX_BAD_RECORD_FRACTION
from falqon_core.records.dialects import RULES, AlpacaRecord, Dialect, ShareGptRecord
from falqon_core.records.json_positions import column_of, field_of
from falqon_core.records.jsonl import BOM, BadRecord, RecordError, bad, decode_line, parse_line
from falqon_core.records.shapes import ChatRecord, CompletionRecord, PreferenceRecord, Record, Shape, TextRecord, num_characters, shape_of

MAX_ERRORS = 50
MAX_LINES = 50_000_000  # blank ones included, which cost time as well
MAX_BAD_RECORDS = 100_000  # then the check ends: the file is something else
EXAMPLE_CHARACTERS = 200
EXAMPLE_ITEMS = 8

_Written = type[ChatRecord] | type[CompletionRecord] | type[TextRecord] | type[PreferenceRecord] | type[AlpacaRecord] | type[ShareGptRecord]
_KINDS: dict[str, _Written] = {
    "messages": ChatRecord,
    "preferred_output": PreferenceRecord,
    "non_preferred_output": PreferenceRecord,
    "conversations": ShareGptRecord,
    "instruction": AlpacaRecord,
    "completion": CompletionRecord,
    "prompt": CompletionRecord,
    "text": TextRecord,
}
_EXPECTED = (
    "an object with 'messages' (chat), 'prompt' and 'completion', 'text', or 'input', 'preferred_output' and 'non_preferred_output'; "
    "Alpaca ('instruction', 'input', 'output') and ShareGPT ('conversations') are converted"
)
_EMPTY = RecordError(line=1, column=1, field="", message="the file is empty", advice=f"write one JSON object a line: {_EXPECTED}")
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
    "tool_call_id": "write the id of a call among the 'tool_calls' of an earlier assistant message, or remove the message",
}


class TooManyLines(BadRecord):
    pass


class MixedShapes(BadRecord):
    """A line of another kind than the lines before it. No tolerance covers this: the file is not what its first lines say."""


class Parsed(NamedTuple):
    record: Record
    dialect: Dialect | None
    value: dict[str, Any]  # as the line has it


class Conversion(BaseModel):
    """How records of a dialect are read, with the first one as an example; long texts and lists are cut."""

    dialect: Dialect
    shape: Shape
    rule: str
    line: int
    before: Any
    after: Any


class FileReport(BaseModel):
    """What a structural check found. `num_errors` counts all bad lines, `errors` lists the first `MAX_ERRORS`.

    `num_records` counts good records, and `num_characters` those of theirs that the model reads, so the input of a preference record
    counts twice. `mixed_at_line` is the first line of another kind than the first record; at `given_up_at_line` there were
    `MAX_BAD_RECORDS` bad ones, or `MAX_LINES` before it, and the check ended.
    """

    shape: Shape | None = None
    num_records: int = 0
    num_characters: int = 0
    num_errors: int = 0
    mixed_at_line: int | None = None
    given_up_at_line: int | None = None
    conversion: Conversion | None = None
    errors: list[RecordError] = []

    @property
    def num_sequences(self) -> int:
        """What the model reads: a preference record is read twice, once with each answer."""
        return 2 * self.num_records if self.shape == "preference" else self.num_records

    @property
    def bad_fraction(self) -> float:
        return self.num_errors / max(1, self.num_records + self.num_errors)

    @property
    def ok(self) -> bool:
        """Whether some job may train on it: without a fault, or with few enough for one that tolerates them."""
        is_whole = self.mixed_at_line is None and self.given_up_at_line is None
        return self.num_records > 0 and is_whole and self.bad_fraction <= MAX_BAD_RECORD_FRACTION

    def too_bad(self, max_bad_fraction: float) -> str | None:
        """Why a job that tolerates this fraction cannot train on the file; None when it can."""
        if self.bad_fraction <= max_bad_fraction:
            return None
        return too_many_bad(self.num_errors, self.num_records + self.num_errors, max_bad_fraction, str(self.errors[0]))

    def summary(self) -> str:
        good = f"{self.num_records} records ({self.shape}{f', converted from {self.conversion.dialect}' if self.conversion else ''})"
        if self.num_errors == 0:
            return good
        first = self.errors[0]
        if self.mixed_at_line is not None:
            first = next((error for error in self.errors if error.line == self.mixed_at_line), first)
        told = str(first) + (f" (and {self.num_errors - 1} more)" if self.num_errors > 1 else "")
        if self.given_up_at_line is not None:
            told += f"; the check was given up at line {self.given_up_at_line}"
        return f"{good}; bad: {told}" if self.ok else told


def too_many_bad(num_bad: int, num_all: int, max_bad_fraction: float, first: str) -> str:
    advice = "correct them" if max_bad_fraction >= MAX_BAD_RECORD_FRACTION else "correct them, or allow more"
    return (
        f"{num_bad} of {num_all} records are bad ({num_bad / num_all:.2%}), more than max_bad_record_fraction = {max_bad_fraction:g} "
        f"allows; {advice} (at most {MAX_BAD_RECORD_FRACTION:g}). The first: {first}"
    )


def parse_record(raw: bytes, line: int = 1) -> Record:
    """One line as a record. Raises `BadRecord`."""
    return _parse(raw, line).record


def read_records(lines: Iterable[bytes]) -> Iterator[tuple[int, Parsed | BadRecord]]:
    """Every line that is not blank, by number: its record, or what is wrong with it. `TooManyLines` is the last."""
    first: Parsed | None = None
    for number, raw in enumerate(lines, 1):
        if number > MAX_LINES:
            message = f"the file has more than {MAX_LINES} lines"
            yield number, TooManyLines(RecordError(line=number, column=1, field="", message=message, advice="split it"))
            return
        raw = raw.rstrip(b"\r\n")
        if _is_blank(raw.removeprefix(BOM) if number == 1 else raw):
            continue
        try:
            parsed = _parse(raw, number)
            first = first or parsed
            _keep_to_one_kind(first, parsed, number)
        except BadRecord as error:
            yield number, error
        else:
            yield number, parsed


def _is_blank(raw: bytes) -> bool:
    return not raw or raw.isspace()


def check_file(lines: Iterable[bytes]) -> FileReport:
    """Check every line of a file, in constant memory."""
    first: tuple[int, Parsed] | None = None
    records = characters = num_errors = 0
    errors: list[RecordError] = []
    mixed_at_line = given_up_at_line = None
    for number, found in read_records(lines):
        if isinstance(found, Parsed):
            first = first or (number, found)
            records += 1
            characters += num_characters(found.record)
            continue
        num_errors += 1
        if len(errors) < MAX_ERRORS:
            errors.append(found.error)
        if mixed_at_line is None and isinstance(found, MixedShapes):
            mixed_at_line = number
        if num_errors == MAX_BAD_RECORDS or isinstance(found, TooManyLines):
            given_up_at_line = number
            break
    if records == num_errors == 0:
        num_errors, errors = 1, [_EMPTY]
    return FileReport(
        shape=shape_of(first[1].record) if first else None,
        num_records=records,
        num_characters=characters,
        num_errors=num_errors,
        mixed_at_line=mixed_at_line,
        given_up_at_line=given_up_at_line,
        conversion=_conversion(*first) if first else None,
        errors=errors,
    )


def _parse(raw: bytes, line: int) -> Parsed:
    text = decode_line(raw, line)
    value = parse_line(text, line)
    if not isinstance(value, dict):
        raise bad(line, 1, "", f"expected an object, found {type(value).__name__}", f"write {_EXPECTED}")
    key = next(filter(value.__contains__, _KINDS), None)
    if key is None:
        raise bad(line, 1, "", f"no known kind of record: found keys {sorted(value)[:8]}", f"write {_EXPECTED}")
    try:
        written = _KINDS[key].model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = (*first["loc"], *first.get("ctx", {}).get("path", ()))
        message = first["msg"].removeprefix("Value error, ").partition(" or instance of ")[0]
        advice = _ADVICE.get(first["type"], "correct the line or remove it")
        raise bad(line, column_of(text, path), field_of(path), message, advice) from None
    if isinstance(written, AlpacaRecord):
        return Parsed(written.converted(), "alpaca", value)
    if isinstance(written, ShareGptRecord):
        return Parsed(written.converted(), "sharegpt", value)
    return Parsed(written, None, value)


def _keep_to_one_kind(first: Parsed, parsed: Parsed, line: int) -> None:
    if parsed.dialect == first.dialect and type(parsed.record) is type(first.record):
        return
    here, before = (f"{shape_of(one.record)}{f' ({one.dialect})' if one.dialect else ''}" for one in (parsed, first))
    message = f"this line has shape '{here}' but the lines before it have '{before}'; a file keeps to one shape"
    raise MixedShapes(bad(line, 1, "", message, "write all lines alike, or upload two files").error)


def _conversion(line: int, parsed: Parsed) -> Conversion | None:
    if parsed.dialect is None:
        return None
    return Conversion(
        dialect=parsed.dialect,
        shape=shape_of(parsed.record),
        rule=RULES[parsed.dialect],
        line=line,
        before=_short(parsed.value),
        after=_short(parsed.record.model_dump(exclude_none=True)),
    )


def _short(value: Any) -> Any:
    match value:
        case str() if len(value) > EXAMPLE_CHARACTERS:
            return f"{value[:EXAMPLE_CHARACTERS]}…"
        case dict():
            return {key: _short(inner) for key, inner in value.items()}
        case list():
            return [_short(inner) for inner in value[:EXAMPLE_ITEMS]]
        case _:
            return value
