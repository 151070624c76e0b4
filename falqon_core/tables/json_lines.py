"""Lines of a JSON document that is one list of objects, and of JSON lines whose fields have other
names. An object is copied as it is written, so that the check sees what was uploaded.
"""

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import BinaryIO

from falqon_core.contract.errors import SourceUnreadable
from falqon_core.records.jsonl import (
    CHUNK_BYTES,
    MAX_LINE_BYTES,
    BadRecord,
    decode_line,
    lines_of_file,
    parse_line,
    printable,
)
from falqon_core.tables.columns import select_columns, write_line

_SPACE = re.compile(r"[ \t\r\n]*")
_decoder = json.JSONDecoder()


def read_list(path: Path, mapping: Mapping[str, str]) -> Iterator[tuple[float, bytes]]:
    """Yield a line for each object of the list, with how much of the file is read by then."""
    size = max(1, path.stat().st_size)
    with path.open("rb") as file:
        for number, text in enumerate(_Objects(file), 1):
            # A raw line break can stand between values only.
            line = text.replace("\r", " ").replace("\n", " ").encode() + b"\n"
            yield file.tell() / size, _renamed(line, number, mapping)


def read_lines(path: Path, mapping: Mapping[str, str]) -> Iterator[tuple[float, bytes]]:
    """Yield each line with its fields renamed, with how much of the file is read by then."""
    size = max(1, path.stat().st_size)
    num_bytes = 0
    for number, line in enumerate(lines_of_file(path), 1):
        num_bytes += len(line) + 1
        yield min(1.0, num_bytes / size), _renamed(line + b"\n", number, mapping)


def _renamed(line: bytes, number: int, mapping: Mapping[str, str]) -> bytes:
    """Rename the fields; leave a line that is no object for the check to refuse."""
    if not mapping or line.isspace():
        return line
    try:
        value = parse_line(decode_line(line.rstrip(b"\r\n"), number), number)
    except BadRecord:
        return line
    if not isinstance(value, dict):
        return line
    columns = mapping
    if number == 1:
        columns = select_columns(list(value), mapping)
    return write_line({field: value.get(column) for field, column in columns.items()})


class _Objects:
    """Iterates over the texts of the objects in a list. An object that the text at hand does not
    hold whole is tried again with at least twice the text, so the time stays linear.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._position = 0

    def __iter__(self) -> Iterator[str]:
        opening = self._take()
        if opening == "[":
            yield from self._items()
        elif opening == "{":
            yield from self._items_in_data()
        else:
            raise _unreadable("it does not begin with '['")
        if self._next():
            raise _unreadable("text follows the end of the list; write one list, or JSON lines")

    def _items_in_data(self) -> Iterator[str]:
        """Yield the items of an object's list in `data`, and pass over the fields behind it."""
        if self._field() != '"data"' or self._take() != "[":
            raise _unreadable("its first field is not a list in 'data'")
        yield from self._items()
        while (separator := self._take()) == ",":
            self._field()
            self._next()
            self._value("the value behind 'data'")
        if separator != "}":
            raise _unreadable("',' or '}' is missing behind the list in 'data'")

    def _field(self) -> str:
        """Take the name of a field, as it is written, and its colon."""
        if self._next() != '"':
            raise _unreadable("the name of a field is missing")
        name = self._value("the name of a field")
        if self._take() != ":":
            raise _unreadable(f"':' is missing after {printable(name)}")
        return name

    def _items(self) -> Iterator[str]:
        if self._next() == "]":
            self._position += 1
            return
        for number in count(1):
            if self._next() != "{":
                raise _unreadable(f"item {number} is no object in braces")
            yield self._value(f"item {number}")
            separator = self._take()
            if separator == "]":
                return
            if separator != ",":
                raise _unreadable(f"',' or ']' is missing after item {number}")

    def _value(self, name: str) -> str:
        """Take the value at the position, as it is written."""
        while True:
            length = len(self._text) - self._position
            try:
                _, end = _decoder.raw_decode(self._text, self._position)
            except RecursionError:
                raise _unreadable(f"{name} is nested too deeply") from None
            except ValueError as error:
                if length > MAX_LINE_BYTES or not self._read(max(CHUNK_BYTES, length)):
                    raise _unreadable(
                        f"{name} is not JSON, or longer than {MAX_LINE_BYTES} bytes: {error}"
                    ) from None
                continue
            # A number may go on in the part that is not read yet.
            if end == len(self._text) and self._read(max(CHUNK_BYTES, length)):
                continue
            text = self._text[self._position : end]
            self._position = end
            return text

    def _take(self) -> str:
        character = self._next()
        self._position += 1
        return character

    def _next(self) -> str:
        """Return the next character that is no white space, and move there; "" at the end."""
        while True:
            space = _SPACE.match(self._text, self._position)
            self._position = space.end() if space else self._position
            if self._position < len(self._text) or not self._read(CHUNK_BYTES):
                return self._text[self._position : self._position + 1]

    def _read(self, num_bytes: int) -> bool:
        """Read more text, without what has been passed. False at the end of the file."""
        content = self._file.read(num_bytes)
        try:
            text = self._decoder.decode(content, final=not content)
        except UnicodeDecodeError as error:
            reason = f"byte 0x{error.object[error.start]:02x} is not UTF-8; save it as UTF-8"
            raise _unreadable(reason) from None
        self._text = self._text[self._position :] + text
        self._position = 0
        return bool(content)


def _unreadable(reason: str) -> SourceUnreadable:
    return SourceUnreadable(f"the JSON file cannot be read: {printable(reason)}")
