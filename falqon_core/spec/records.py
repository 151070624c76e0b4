"""A line becomes a record, and a whole file is checked: what is wrong, where, and what was expected.

The shapes are those of `spec.shapes`; one file keeps to one shape. The check reads a stream of lines in constant memory and
stops collecting after `MAX_ERRORS`. What is given up: no tokenizer here, so token counts, truncation and templates
belong to `falqon_core.data`.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from falqon_core.spec.places import column_of, field_of
from falqon_core.spec.shapes import ChatRecord, CompletionRecord, PreferenceRecord, Record, Shape, TextRecord, num_characters, shape_of

MAX_ERRORS = 50
MAX_LINE_BYTES = 8 * 2**20

_SHAPES: dict[str, type[ChatRecord] | type[CompletionRecord] | type[TextRecord] | type[PreferenceRecord]] = {
    "preferred_output": PreferenceRecord,
    "non_preferred_output": PreferenceRecord,
    "messages": ChatRecord,
    "completion": CompletionRecord,
    "prompt": CompletionRecord,
    "text": TextRecord,
}
_EXPECTED = "an object with 'messages' (chat), 'prompt' and 'completion', 'text', or 'input', 'preferred_output' and 'non_preferred_output'"


class RecordError(BaseModel):
    """One fault of one line. `line` and `column` count from 1; `column` is in characters."""

    model_config = ConfigDict(frozen=True)

    line: int
    column: int
    field: str
    message: str

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}" + (f", {self.field}" if self.field else "") + f": {self.message}"


class BadRecord(ValueError):
    def __init__(self, error: RecordError) -> None:
        super().__init__(str(error))
        self.error = error


class FileReport(BaseModel):
    """What a structural check found. `num_errors` counts all faulty lines, `errors` lists the first `MAX_ERRORS`.

    `num_characters` are those the model reads, so the input of a preference record counts twice.
    """

    shape: Shape | None = None
    num_records: int = 0
    num_characters: int = 0
    num_errors: int = 0
    errors: list[RecordError] = []

    @property
    def num_sequences(self) -> int:
        """What the model reads: a preference record is read twice, once with each answer."""
        return 2 * self.num_records if self.shape == "preference" else self.num_records

    @property
    def ok(self) -> bool:
        return self.num_errors == 0

    def summary(self) -> str:
        if self.ok:
            return f"{self.num_records} records ({self.shape})"
        more = f" (and {self.num_errors - 1} more)" if self.num_errors > 1 else ""
        return f"{self.errors[0]}{more}"


def parse_record(raw: bytes, line: int = 1) -> Record:
    """Parse one line. Raises `BadRecord` with line, column, field and what was expected."""
    text = _decode(raw, line)
    value = _load(text, line)
    if not isinstance(value, dict):
        raise _bad(line, 1, "", f"expected {_EXPECTED}, found {type(value).__name__}")
    shape = next((_SHAPES[key] for key in _SHAPES if key in value), None)
    if shape is None:
        raise _bad(line, 1, "", f"expected {_EXPECTED}, found keys {sorted(value)[:8]}")
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = first["loc"]
        message = first["msg"].removeprefix("Value error, ")
        raise _bad(line, column_of(text, path), field_of(path), message) from None


def read_records(lines: Iterable[bytes]) -> Iterator[Record]:
    """All records of a file that passed `check_file`; blank lines are passed over. Raises `BadRecord` at the first fault."""
    for number, raw in enumerate(lines, 1):
        if raw.strip():
            yield parse_record(raw.rstrip(b"\r\n"), number)


def check_file(lines: Iterable[bytes]) -> FileReport:
    """Check every line of a file, in constant memory."""
    report = FileReport()
    for number, raw in enumerate(lines, 1):
        if not raw.strip():
            continue
        try:
            record = parse_record(raw.rstrip(b"\r\n"), number)
            _keep_to_one_shape(report, record, number)
        except BadRecord as error:
            report.num_errors += 1
            if len(report.errors) < MAX_ERRORS:
                report.errors.append(error.error)
            continue
        report.num_records += 1
        report.num_characters += num_characters(record)
    if report.num_records == 0 and report.num_errors == 0:
        report.num_errors = 1
        report.errors = [
            RecordError(line=1, column=1, field="", message=f"the file is empty; expected one JSON object a line: {_EXPECTED}")
        ]
    return report


def _keep_to_one_shape(report: FileReport, record: Record, line: int) -> None:
    shape = shape_of(record)
    if report.shape is None:
        report.shape = shape
    elif shape != report.shape:
        raise _bad(line, 1, "", f"this line has shape '{shape}' but the lines before it have '{report.shape}'; a file keeps to one shape")


def _decode(raw: bytes, line: int) -> str:
    if len(raw) > MAX_LINE_BYTES:
        raise _bad(line, 1, "", f"the line has {len(raw)} bytes; the limit is {MAX_LINE_BYTES}")
    if line == 1:
        raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        column = len(raw[: error.start].decode("utf-8")) + 1
        raise _bad(line, column, "", f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8") from None


def _load(text: str, line: int) -> Any:
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise _bad(line, error.colno, "", f"not JSON: {error.msg}; expected one JSON object a line") from None
    except RecursionError:
        raise _bad(line, 1, "", "the JSON is nested too deeply") from None
    except ValueError as error:  # NaN and its like, or a number with more digits than Python converts
        raise _bad(line, 1, "", "a number has too many digits" if "digits" in str(error) else str(error)) from None
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _bad(line: int, column: int, field: str, message: str) -> BadRecord:
    return BadRecord(RecordError(line=line, column=column, field=field, message=message))
