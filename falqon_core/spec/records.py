"""The accepted JSONL records, and a check of a whole file that says what is wrong, where, and what was expected.

Three shapes: chat (`messages`), prompt/completion, and plain text; one file keeps to one shape. The check reads a stream of
lines in constant memory and stops collecting after `MAX_ERRORS`. What is given up: no tokenizer here, so token counts,
truncation and templates belong to `falqon_core.data`.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

MAX_ERRORS = 50
MAX_LINE_BYTES = 8 * 2**20

Text = Annotated[str, StringConstraints(min_length=1)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FunctionCall(_Record):
    name: Text
    arguments: str


class ToolCall(_Record):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(_Record):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    name: str | None = None
    weight: Annotated[int, Field(ge=0, le=1)] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _content_fits_the_role(self) -> Self:
        if self.weight is not None and self.role != "assistant":
            raise ValueError("weight is allowed on assistant messages only")
        if self.tool_calls is not None and self.role != "assistant":
            raise ValueError("tool_calls are allowed on assistant messages only")
        if not self.content and not self.tool_calls:
            raise ValueError("a message needs non-empty content" + (" or tool_calls" if self.role == "assistant" else ""))
        return self


class ChatRecord(_Record):
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    tools: list[dict[str, Any]] | None = None
    parallel_tool_calls: bool | None = None

    @field_validator("tools")
    @classmethod
    def _tools_are_plain_json(cls, tools: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        try:
            json.dumps(tools, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError) as error:  # a number such as 1e999, half a surrogate pair, deep nesting
            raise ValueError(f"tools cannot be written as JSON again: {error}") from None
        return tools

    @model_validator(mode="after")
    def _has_something_to_learn(self) -> Self:
        assistant = [m for m in self.messages if m.role == "assistant"]
        if not assistant:
            raise ValueError("messages: at least one message must have role 'assistant', or there is nothing to learn")
        if all(m.weight == 0 for m in assistant):
            raise ValueError("messages: every assistant message has weight 0, so there is nothing to learn")
        if self.messages[-1].role != "assistant":
            raise ValueError("messages: the last message must have role 'assistant'")
        return self


class CompletionRecord(_Record):
    prompt: str
    completion: Text


class TextRecord(_Record):
    text: Text


Record = ChatRecord | CompletionRecord | TextRecord
_SHAPES: dict[str, type[ChatRecord] | type[CompletionRecord] | type[TextRecord]] = {
    "messages": ChatRecord,
    "completion": CompletionRecord,
    "prompt": CompletionRecord,
    "text": TextRecord,
}
_EXPECTED = "an object with 'messages' (chat), with 'prompt' and 'completion', or with 'text'"


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
    """What a structural check found. `num_errors` counts all faulty lines, `errors` lists the first `MAX_ERRORS`."""

    shape: Literal["messages", "prompt/completion", "text"] | None = None
    num_records: int = 0
    num_characters: int = 0
    num_errors: int = 0
    errors: list[RecordError] = []

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
        raise _bad(line, _column(text, path), _field(path), message) from None


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
        report.num_characters += _num_characters(record)
    if report.num_records == 0 and report.num_errors == 0:
        report.num_errors = 1
        report.errors = [
            RecordError(line=1, column=1, field="", message=f"the file is empty; expected one JSON object a line: {_EXPECTED}")
        ]
    return report


def shape_of(record: Record) -> Literal["messages", "prompt/completion", "text"]:
    if isinstance(record, ChatRecord):
        return "messages"
    return "text" if isinstance(record, TextRecord) else "prompt/completion"


def _keep_to_one_shape(report: FileReport, record: Record, line: int) -> None:
    shape = shape_of(record)
    if report.shape is None:
        report.shape = shape
    elif shape != report.shape:
        raise _bad(line, 1, "", f"this line has shape '{shape}' but the lines before it have '{report.shape}'; a file keeps to one shape")


def _num_characters(record: Record) -> int:
    if isinstance(record, ChatRecord):
        calls = sum(len(c.function.name) + len(c.function.arguments) for m in record.messages for c in m.tool_calls or ())
        return calls + sum(len(m.content or "") for m in record.messages)
    return len(record.text) if isinstance(record, TextRecord) else len(record.prompt) + len(record.completion)


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


def _field(path: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _column(text: str, path: tuple[int | str, ...]) -> int:
    """The column, from 1, where the value at `path` starts, or where its nearest present parent does."""
    decoder, position = json.JSONDecoder(), _skip(text, 0)
    for part in path:
        inner, index = position + 1, 0
        while True:
            inner = _skip(text, inner)
            if inner >= len(text) or text[inner] in "]}":
                return position + 1
            key: int | str = index
            if isinstance(part, str):
                if text[position] != "{":
                    return position + 1
                key, inner = decoder.raw_decode(text, inner)
                inner = _skip(text, inner)
            if key == part:
                break
            _, inner = decoder.raw_decode(text, inner)
            index += 1
        position = inner
    return position + 1


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n,:":
        position += 1
    return position
