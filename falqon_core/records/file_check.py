"""A whole file is checked: what is wrong, where, and what to do.

Records have the shapes of `records.shapes`, or are written in a dialect of `records.dialects` and
converted; one file keeps to one of them. `read_records` is the only reader: the check of an upload
and the trainer both go through it, so what the report shows is what is trained. The check runs in
constant memory and lists at most `MAX_ERRORS` faults. There is no tokenizer here: token counts,
truncation and templates belong to `falqon_core.data`.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from pydantic import BaseModel

from falqon_core.contract.recipe_options import MAX_BAD_RECORD_FRACTION
from falqon_core.contract.sources import BOM
from falqon_core.records.dialects import DIALECT_RULES, Dialect
from falqon_core.records.jsonl import BINARY_FILE, BadRecord, RecordError, bad, printable
from falqon_core.records.line_parser import EXPECTED, Parsed, parse
from falqon_core.records.openai_lines import Rewrite
from falqon_core.records.shapes import (
    ChatRecord,
    Shape,
    TextRecord,
    learned_turns,
    num_characters,
    shape_of,
)

MAX_ERRORS = 50
MAX_LINES = 50_000_000  # Blank lines count as well, since they cost time.
MAX_BAD_RECORDS = 100_000  # The check ends there: the file is something else.
EXAMPLE_CHARACTERS = 200
EXAMPLE_ITEMS = 8
MAX_IGNORED_FIELDS = 20  # Names of fields in a report.

_EMPTY = RecordError(
    line=1,
    column=1,
    field="",
    code="empty_file",
    message="the file is empty",
    advice=f"write one JSON object a line: {EXPECTED}",
)
_BLANK = _EMPTY.model_copy(update={"message": "the file holds nothing but blanks"})


class TooManyLines(BadRecord):
    pass


class MixedShapes(BadRecord):
    """A line of another kind than the lines before it. No tolerance covers this: the file is not
    what its first lines say.
    """

    def __init__(self, error: RecordError, kind: str) -> None:
        super().__init__(error)
        self.kind = kind


class Conversion(BaseModel):
    """How records of a dialect are read, with the first one as an example; long texts and lists are
    cut."""

    dialect: Dialect
    shape: Shape
    rule: str
    line: int
    before: Any
    after: Any


class KindLines(BaseModel):
    """How many good or mixed lines of one kind a file has."""

    num_lines: int
    first_line: int


class FileReport(BaseModel):
    """What a structural check found. `num_errors` counts all bad lines, `errors` lists the first
    `MAX_ERRORS`.

    `num_records` counts good records, and `num_characters` those of theirs that the model reads, so
    the input of a preference record counts twice. `num_learned_turns` counts those of chats, and
    `num_turn_characters` what the model reads where each is a sequence of its own.
    `mixed_at_line` is the first line of another kind
    than the first record; at `given_up_at_line` there were `MAX_BAD_RECORDS` bad ones, or
    `MAX_LINES` before it, and the check ended. `kinds` says which lines of a mixed file are which.
    `ignored_fields` counts the fields of good records that train nothing, by name; those past the
    first `MAX_IGNORED_FIELDS` names are counted in `num_other_ignored`. `rewrites` counts the good
    records that were rewritten, by what was. `text_lengths` counts the records of plain text by the
    bits of their number of characters.
    """

    shape: Shape | None = None
    num_records: int = 0
    num_characters: int = 0
    num_learned_turns: int = 0
    num_turn_characters: int = 0
    num_errors: int = 0
    mixed_at_line: int | None = None
    given_up_at_line: int | None = None
    kinds: dict[str, KindLines] = {}
    ignored_fields: dict[str, int] = {}
    num_other_ignored: int = 0
    rewrites: dict[Rewrite, int] = {}
    text_lengths: dict[int, int] = {}
    conversion: Conversion | None = None
    errors: list[RecordError] = []

    def add(self, parsed: Parsed) -> None:
        """Count a good record."""
        self.num_records += 1
        self.num_characters += num_characters(parsed.record)
        match parsed.record:
            case ChatRecord() as chat:
                turns = learned_turns(chat)
                self.num_learned_turns += turns.num_turns
                self.num_turn_characters += turns.num_characters
            case TextRecord(text=text):
                num_bits = len(text).bit_length()
                self.text_lengths[num_bits] = self.text_lengths.get(num_bits, 0) + 1
        for rewrite in parsed.rewrites:
            self.rewrites[rewrite] = self.rewrites.get(rewrite, 0) + 1
        for name in map(printable, parsed.ignored):
            if name in self.ignored_fields or len(self.ignored_fields) < MAX_IGNORED_FIELDS:
                self.ignored_fields[name] = self.ignored_fields.get(name, 0) + 1
            else:
                self.num_other_ignored += 1

    def add_mixed(self, line: int, kind: str) -> None:
        self.mixed_at_line = self.mixed_at_line or line
        self.kinds.setdefault(kind, KindLines(num_lines=0, first_line=line)).num_lines += 1

    @property
    def num_sequences(self) -> int:
        """Return how many sequences the model reads: two of a preference record, one an answer."""
        if self.shape == "preference":
            return 2 * self.num_records
        return self.num_records

    @property
    def bad_fraction(self) -> float:
        return self.num_errors / max(1, self.num_records + self.num_errors)

    @property
    def ok(self) -> bool:
        """Return True if some job may train on it: without a fault, or with few enough for one that
        tolerates them."""
        is_whole = self.mixed_at_line is None and self.given_up_at_line is None
        return self.num_records > 0 and is_whole and self.bad_fraction <= MAX_BAD_RECORD_FRACTION

    def too_bad(self, max_bad_fraction: float) -> str | None:
        """Return why a job that tolerates this fraction cannot train on it; None when it can."""
        if self.bad_fraction <= max_bad_fraction:
            return None
        num_all = self.num_records + self.num_errors
        return too_many_bad(self.num_errors, num_all, max_bad_fraction, str(self.errors[0]))

    def summary(self) -> str:
        origin = f", converted from {self.conversion.dialect}" if self.conversion else ""
        good = f"{self.num_records} records ({self.shape}{origin})"
        if self.num_errors == 0:
            return good
        first = self.errors[0]
        faults = str(first)
        if self.num_errors > 1:
            faults += f" (and {self.num_errors - 1} more)"
        if self.mixed_at_line not in (None, first.line):
            faults += (
                f"; line {self.mixed_at_line} is the first of another shape, "
                "and a file keeps to one"
            )
        if self.given_up_at_line is not None:
            faults += f"; the check was given up at line {self.given_up_at_line}"
        return f"{good}; bad: {faults}" if self.ok else faults


def too_many_bad(num_bad: int, num_all: int, max_bad_fraction: float, first: str) -> str:
    advice = "correct them"
    if max_bad_fraction < MAX_BAD_RECORD_FRACTION:
        advice += ", or allow more"
    return (
        f"{num_bad} of {num_all} records are bad ({num_bad / num_all:.2%}), more than "
        f"max_bad_record_fraction = {max_bad_fraction:g} "
        f"allows; {advice} (at most {MAX_BAD_RECORD_FRACTION:g}). The first: {first}"
    )


def read_records(lines: Iterable[bytes]) -> Iterator[tuple[int, Parsed | BadRecord]]:
    """Yield every line that is not blank, by number: its record, or what is wrong with it.
    `TooManyLines` is the last, and the first of a file that is no text the only one.
    """
    first: Parsed | None = None
    for number, raw in enumerate(lines, 1):
        if number > MAX_LINES:
            message = f"the file has more than {MAX_LINES} lines"
            error = bad(number, 1, "", message, "split it", "too_many_lines").error
            yield number, TooManyLines(error)
            return
        raw = raw.rstrip(b"\r\n")
        content = raw.removeprefix(BOM) if number == 1 else raw
        if not content or content.isspace():
            continue
        try:
            parsed = parse(raw, number)
            first = first or parsed
            _keep_to_one_kind(first, parsed, number)
        except BadRecord as refusal:
            refusal.raw = raw
            yield number, refusal
            if refusal.error.code == BINARY_FILE:
                return
        else:
            yield number, parsed


def good_lines(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines that hold a record, as they are written."""
    newest = b""

    def watched() -> Iterator[bytes]:
        nonlocal newest
        for line in lines:
            newest = line
            yield line

    for _, outcome in read_records(watched()):
        if isinstance(outcome, Parsed):
            yield newest.rstrip(b"\r\n") + b"\n"


def check_file(lines: Iterable[bytes]) -> FileReport:
    """Check every line of a file, in constant memory."""
    first: tuple[int, Parsed] | None = None
    report = FileReport()
    rest = iter(lines)
    first_line = next(rest, b"")
    for number, outcome in read_records(chain([first_line], rest)):
        if isinstance(outcome, Parsed):
            first = first or (number, outcome)
            report.add(outcome)
            continue
        report.num_errors += 1
        if len(report.errors) < MAX_ERRORS:
            report.errors.append(outcome.quoted())
        if isinstance(outcome, MixedShapes):
            report.add_mixed(number, outcome.kind)
        if report.num_errors == MAX_BAD_RECORDS or isinstance(outcome, TooManyLines):
            report.given_up_at_line = number
            break
    if first is not None:
        report.shape = shape_of(first[1].record)
        report.conversion = _conversion(*first)
        own = KindLines(num_lines=report.num_records, first_line=first[0])
        report.kinds = {first[1].kind: own} | report.kinds
    elif report.num_errors == 0:
        report.num_errors = 1
        report.errors = [_BLANK if first_line.removeprefix(BOM) else _EMPTY]
    return report


def _keep_to_one_kind(first: Parsed, parsed: Parsed, line: int) -> None:
    if parsed.dialect == first.dialect and type(parsed.record) is type(first.record):
        return
    message = (
        f"this line has shape '{parsed.kind}' but the lines before it have '{first.kind}'; "
        "a file keeps to one shape"
    )
    advice = "write all lines alike, or upload two files"
    raise MixedShapes(bad(line, 1, "", message, advice, "mixed_shapes").error, parsed.kind)


def _conversion(line: int, parsed: Parsed) -> Conversion | None:
    if parsed.dialect is None:
        return None
    return Conversion(
        dialect=parsed.dialect,
        shape=shape_of(parsed.record),
        rule=DIALECT_RULES[parsed.dialect],
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
