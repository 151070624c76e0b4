"""The lines of a benchmark's CSV, as dataclasses: one that is there is not measured again."""

import csv
from collections.abc import Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import TypeAdapter

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Row = TypeVar("Row", bound="DataclassInstance")


def read(path: Path, kind: type[Row]) -> list[Row]:
    """Return the lines of a file, none where there is no file. An empty cell has its default."""
    if not path.exists():
        return []
    required = {each.name for each in fields(kind) if each.default is MISSING}
    adapter = TypeAdapter(kind)
    with path.open(newline="") as file:
        return [
            adapter.validate_python(
                {name: text for name, text in line.items() if text or name in required}
            )
            for line in csv.DictReader(file)
        ]


def append(path: Path, rows: Sequence[Row]) -> None:
    """Add lines, after a head where the file is new."""
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        names = [each.name for each in fields(rows[0])]
        writer = csv.DictWriter(file, names, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(map(asdict, rows))
