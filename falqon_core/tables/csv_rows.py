"""Rows of a CSV file with a header. Every cell is text: numbers stay as they are written."""

import csv
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from falqon_core.contract.errors import SourceUnreadable
from falqon_core.records.jsonl import MAX_LINE_BYTES, printable
from falqon_core.tables.columns import Table, ignored_columns, select_columns

DELIMITERS = ",;\t"
MAX_COLUMNS = 1_000


@contextmanager
def open_table(path: Path, mapping: Mapping[str, str]) -> Iterator[Table]:
    """Read the header of the file; its rows are read as they are taken."""
    with path.open("rb") as file:
        reader = _CsvReader(file)
        names = reader.next_row() or []
        if len(names) > MAX_COLUMNS:
            raise reader.refusal(f"more than {MAX_COLUMNS} columns")
        columns = select_columns(names, mapping)
        for column in columns.values():
            if names.count(column) > 1:
                raise reader.refusal(f"two columns have the name '{column}'")
        places = {field: names.index(column) for field, column in columns.items()}
        yield Table(_rows(reader, places, len(names)), ignored_columns(names, columns))


def _rows(
    reader: "_CsvReader", places: Mapping[str, int], num_columns: int
) -> Iterator[tuple[float, dict[str, Any]]]:
    while (cells := reader.next_row()) is not None:
        if not cells:  # a blank line
            continue
        if len(cells) != num_columns:
            raise reader.refusal(
                f"the row has {len(cells)} cells, and the header has {num_columns} columns"
            )
        yield reader.fraction(), {field: cells[place] for field, place in places.items()}


class _CsvReader:
    def __init__(self, file: BinaryIO) -> None:
        csv.field_size_limit(MAX_LINE_BYTES)
        self._bytes = file
        self._size = max(1, os.fstat(file.fileno()).st_size)
        header = file.readline(MAX_LINE_BYTES)
        file.seek(0)
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        delimiter = max(DELIMITERS, key=lambda character: header.count(character.encode()))
        self._rows = csv.reader(text, delimiter=delimiter, strict=True)

    def next_row(self) -> list[str] | None:
        """Return the next row; None at the end of the file."""
        with self._refusals():
            return next(self._rows, None)

    def fraction(self) -> float:
        return min(1.0, self._bytes.tell() / self._size)

    def refusal(self, reason: str) -> SourceUnreadable:
        line = self._rows.line_num
        return SourceUnreadable(f"the CSV file cannot be read: line {line}: {printable(reason)}")

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except csv.Error as error:
            raise self.refusal(str(error)) from None
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise SourceUnreadable(
                f"the CSV file cannot be read: byte 0x{byte:02x} is not UTF-8; save it as UTF-8"
            ) from None
