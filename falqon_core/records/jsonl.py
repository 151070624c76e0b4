"""Bytes become lines, and a line becomes a JSON object: bounded in length and nesting, and without
what JSON readers disagree on.

Refused are bytes that are not UTF-8, NUL characters and halves of surrogate pairs (no tokenizer and
no database keeps them), keys that occur twice, NaN and its like. Every refusal is one `BadRecord`
that says where and what to do.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict

from falqon_core.contract.sources import BOM, binary_format
from falqon_core.records.json_positions import column_of, column_of_second, field_of

MAX_LINE_BYTES = 8 * 2**20
MAX_NESTING = 64
MAX_LINE_VALUES = 100_000  # Values of one line; a message has about four.
CHUNK_BYTES = 2**20
MAX_FIELD_CHARACTERS = 200
QUOTED_CHARACTERS = 120  # Characters of a bad line.
QUOTED_BEFORE = 40  # Those before its column.
BINARY_FILE = "binary_file"

# Matches a text without its end too, so that none is tried twice.
_STRING = re.compile(r'"(?:[^"\\]++|\\.?)*+"?', re.DOTALL)
# Lists of integers, where each text is an empty one.
_TOKEN_IDS = re.compile(r"\[[\d\s,]*+\]")
# Brackets of which none is closed between.
_DEEP = re.compile(rf"(?:[\[{{][^\[\]{{}}]*+){{{MAX_NESTING + 1}}}")
_TOO_DEEP = (
    f"the JSON is nested too deeply, the limit is {MAX_NESTING} levels",
    "write a flatter record",
)
_SUSPICIOUS = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")


class RecordError(BaseModel):
    """One fault of one line. `line` and `column` count from 1; `column` is in characters. `code`
    names the rule or the feature, `advice` says what to do. `text` is what stands around the
    column, which is its character number `mark`, from 0.
    """

    model_config = ConfigDict(frozen=True)

    line: int
    column: int
    field: str
    code: str = "invalid_record"
    message: str
    advice: str = "correct the line or remove it"
    text: str = ""
    mark: int = 0

    def __str__(self) -> str:
        position = f"line {self.line}, column {self.column}"
        if self.field:
            position += f", {self.field}"
        return f"{position}: {self.message}; {self.advice}"


class BadRecord(ValueError):
    def __init__(self, error: RecordError) -> None:
        super().__init__(str(error))
        self.error = error
        self.raw = b""  # The line, once a reader has it.

    def quoted(self) -> RecordError:
        """Return the error with the text around its column."""
        raw = self.raw.removeprefix(BOM) if self.error.line == 1 else self.raw
        column = self.error.column - 1
        start = max(0, column - QUOTED_BEFORE)
        text = raw.decode(errors="replace")[start : start + QUOTED_CHARACTERS]
        text = "".join(character if character.isprintable() else "\ufffd" for character in text)
        return self.error.model_copy(update={"text": text, "mark": column - start})


class TooManyValues(BadRecord):
    """The line holds more values than its reader takes."""

    def __init__(self, text: str, line: int, max_values: int) -> None:
        message = f"the JSON holds too many values, the limit is {max_values}"
        super().__init__(bad(line, column_of(text, ()), "", message, "split the record").error)


class _SecondKey(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class _Constant(ValueError):
    pass


class _Crowd(ValueError):
    """There are too many values."""


class Unusable(ValueError):
    """Something in a parsed value that cannot be used; `path` leads there."""

    def __init__(
        self, path: tuple[int | str, ...], message: str, advice: str, code: str = "invalid_json"
    ) -> None:
        super().__init__(message)
        self.path = path
        self.code = code
        self.message = message
        self.advice = advice


def lines_of(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without their ends. A line longer than `MAX_LINE_BYTES` comes cut somewhere past it, so
    that memory stays flat.
    """
    rest = b""
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        if len(rest) <= MAX_LINE_BYTES:
            rest += first
        if others:
            yield rest
            yield from others[:-1]
            rest = others[-1]
    if rest:
        yield rest


def lines_of_file(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from lines_of(iter(lambda: file.read(CHUNK_BYTES), b""))


def bad(
    line: int, column: int, field: str, message: str, advice: str, code: str = "invalid_json"
) -> BadRecord:
    """Keys of a hostile line may reach `field` and `message`; nothing unprintable leaves here."""
    return BadRecord(
        RecordError(
            line=line,
            column=column,
            field=printable(field),
            code=code,
            message=printable(message),
            advice=advice,
        )
    )


def decode_line(raw: bytes, line: int) -> str:
    if line == 1 and (format := binary_format(raw)):
        raise bad(1, 1, "", f"this is {format.name}", format.advice, BINARY_FILE)
    if len(raw) > MAX_LINE_BYTES:
        message = f"the line is too long; the limit is {MAX_LINE_BYTES} bytes"
        raise bad(line, 1, "", message, "shorten the record or split it")
    if line == 1:
        raw = raw.removeprefix(BOM)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        column = len(raw[: error.start].decode("utf-8")) + 1
        message = f"byte 0x{raw[error.start]:02x} is not UTF-8"
        raise bad(line, column, "", message, "save the file as UTF-8") from None
    if (position := text.find("\0")) >= 0:
        advice = "save the file as UTF-8, without NUL bytes"
        raise bad(line, position + 1, "", "a NUL byte, which is no text", advice)
    if text.startswith("\ufeff"):
        raise bad(line, 1, "", "a byte order mark (BOM), which may only begin a file", "remove it")
    return text


def parse_line(
    text: str, line: int, max_values: int = MAX_LINE_VALUES, *, counts_token_ids: bool = True
) -> Any:
    """Return the value that a line holds. Too many values are refused before any is made; without
    `counts_token_ids`, a list of integers counts as one.
    """
    if len(text) > max_values:
        _refuse_crowd(text, line, max_values, counts_token_ids)
    try:
        value = None
        end = 0
        if text.startswith("{"):
            value, end = _decoder.raw_decode(text)
        # The line has white space around it, something else than an object, or more than one value.
        if end < len(text):
            value = _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise bad(
            line, error.colno, "", f"not JSON: {error.msg}", "write one JSON object a line"
        ) from None
    except RecursionError:
        raise bad(line, 1, "", *_TOO_DEEP) from None
    except _SecondKey as error:
        column = column_of_second(text, error.key)
        raise bad(
            line, column, error.key, "this key occurs twice in one object", "keep one of the two"
        ) from None
    except _Constant as error:
        raise bad(line, 1, "", f"{error} is not JSON", "write a number or null") from None
    except ValueError:  # Python converts no longer ones
        raise bad(line, 1, "", "a number has too many digits", "write it as a string") from None
    if (
        _SUSPICIOUS.search(text)
        or text.count("[") + text.count("{") > MAX_NESTING
        or text.count(",") > max_values
    ):
        try:
            _ValueCheck(max_values, counts_token_ids).at(value, ())
        except _Crowd:
            raise TooManyValues(text, line, max_values) from None
        except Unusable as error:
            raise bad(
                line, column_of(text, error.path), field_of(error.path), error.message, error.advice
            ) from None
    return value


class _ValueCheck:
    """Through everything in a line, for what cannot be kept."""

    def __init__(self, max_values: int, counts_token_ids: bool) -> None:
        self._max_values = max_values
        self._counts_token_ids = counts_token_ids
        self._values = 0

    def at(self, value: object, path: tuple[int | str, ...]) -> None:
        self._values += 1
        if self._values > self._max_values:
            raise _Crowd
        if isinstance(value, str):
            _refuse_text(value, path)
        elif isinstance(value, dict | list):
            if len(path) >= MAX_NESTING:
                raise Unusable(path[:1], *_TOO_DEEP)
            if not self._counts_token_ids and set(map(type, value)) == {int}:
                return
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                if isinstance(key, str):
                    _refuse_text(key, path)
                self.at(inner, (*path, key))


def _refuse_text(text: str, path: tuple[int | str, ...]) -> None:
    if "\0" in text:
        raise Unusable(path, "the text holds a NUL character (\\u0000)", "remove it")
    try:
        text.encode()
    except UnicodeEncodeError:
        message = "the text is not valid unicode: it holds half of a surrogate pair"
        advice = "write the whole character, or remove it"
        raise Unusable(path, message, advice) from None


def _refuse_crowd(text: str, line: int, max_values: int, counts_token_ids: bool) -> None:
    """Refuse what surely holds more values: each comma precedes one, each bracket opens one."""
    if text.count(",") <= max_values and text.count("[") + text.count("{") <= max_values:
        return
    structure = _STRING.sub('""', text)
    if _DEEP.search(structure):
        raise bad(line, 1, "", *_TOO_DEEP)
    if not counts_token_ids:
        structure = _TOKEN_IDS.sub("0", structure)
    if (
        structure.count(",") >= max_values
        or structure.count("[") + structure.count("{") > max_values
    ):
        raise TooManyValues(text, line, max_values)


def printable(text: str) -> str:
    if not text.isprintable():
        text = repr(text)[1:-1]
    if len(text) <= MAX_FIELD_CHARACTERS:
        return text
    return f"{text[:MAX_FIELD_CHARACTERS]}…"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise _SecondKey(_first_repeated(key for key, _ in pairs))
    return content


def _first_repeated(keys: Iterable[str]) -> str:
    """Return the first key that occurs a second time; there is one."""
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    raise AssertionError("no key is repeated")


def _refuse_constant(name: str) -> NoReturn:
    raise _Constant(name)


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)
