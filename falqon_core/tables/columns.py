"""Mapping of a table's columns to the fields of a record, and the text of a cell."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from falqon_core.contract.errors import ColumnsUnknown
from falqon_core.records.fields import JSON_FIELDS
from falqon_core.records.jsonl import printable
from falqon_core.records.line_parser import RECORD_FIELDS, has_known_kind

MAX_NAMED_COLUMNS = 40


@dataclass(frozen=True, slots=True)
class Table:
    """Rows by field, each with how much of the file is read by then, 0 to 1."""

    rows: Iterator[tuple[float, dict[str, Any]]]
    ignored: list[str]  # Columns that are no field of a record.


def ignored_columns(names: Sequence[str], columns: Mapping[str, str]) -> list[str]:
    return [printable(name) for name in names if name not in columns.values()][:MAX_NAMED_COLUMNS]


def select_columns(names: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Return the column of each field. Without a mapping, columns have the names of the fields.

    Raises `ColumnsUnknown`, which names the columns.
    """
    for field, column in mapping.items():
        if column not in names:
            raise ColumnsUnknown(
                f"mapping.{printable(field)}: there is no column '{printable(column)}'; "
                f"the columns are {_listed(names)}",
                ignored_columns(names, {}),
            )
    if mapping:
        return dict(mapping)
    if not has_known_kind(names):
        raise ColumnsUnknown(
            f"no known kind of record has the columns {_listed(names)}; say which is which by a "
            'mapping such as {"prompt": "question", "completion": "answer"}',
            ignored_columns(names, {}),
        )
    return {name: name for name in names if name in RECORD_FIELDS}


def write_line(cells: Mapping[str, Any]) -> bytes:
    """Write a row, by field, as a line. A null is no field."""
    row = {field: _value_of(field, cell) for field, cell in cells.items() if cell is not None}
    text = json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=_text_of)
    # The check refuses half of a surrogate pair, and names the line.
    return text.encode("utf-8", "surrogatepass") + b"\n"


def _text_of(cell: Any) -> str:
    """Return text for a type that JSON does not have. Bytes are text: many writers of Parquet do
    not mark theirs as UTF-8. Others are for the check to refuse, as above."""
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "surrogateescape")
    return str(cell)


def _value_of(field: str, cell: Any) -> Any:
    if isinstance(cell, bytes):
        cell = _text_of(cell)
    if field in JSON_FIELDS and isinstance(cell, str):
        return _parsed(cell)
    return _without_nulls(cell)


def _parsed(cell: str) -> Any:
    if cell[:1] not in ("[", "{"):
        return cell or None
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell  # The check refuses it, and names the line.


def _without_nulls(cell: Any) -> Any:
    """Leave out what a struct of a table has only because another row has it."""
    if isinstance(cell, dict):
        return {key: _without_nulls(inner) for key, inner in cell.items() if inner is not None}
    if isinstance(cell, list):
        return [_without_nulls(inner) for inner in cell]
    return cell


def _listed(names: Sequence[str]) -> str:
    listed = ", ".join(f"'{printable(name)}'" for name in names[:MAX_NAMED_COLUMNS])
    if len(names) > MAX_NAMED_COLUMNS:
        listed += f" and {len(names) - MAX_NAMED_COLUMNS} more"
    return listed or "(none)"
