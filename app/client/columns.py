"""The columns of a table that fit on a terminal, and the width of each.

An id is never cut or wrapped, for it is there to be copied; a terminal shows its end, which every
command takes. Words give way first, then whole columns, from the last one on: each row stays one
line, and `--json` has what is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len

GAP = 2
MIN_WORDS_WIDTH = 12


@dataclass(frozen=True, slots=True)
class Cell:
    """A value of two forms: whole for a program, short for a terminal, which may colour it."""

    whole: str
    short: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    # The way to shorten words that do not fit; None: they are ids or numbers.
    words: Literal["shortened", "wrapped"] | None = None


def fit(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Return the width of each column that is shown, from the first on."""
    widths = [
        max(cell_len(cell) for cell in (column.name, *(row[index] for row in rows)))
        for index, column in enumerate(columns)
    ]
    for index, column in enumerate(columns):
        if column.words:
            widths[index] = min(widths[index], width)
    while len(widths) > 1 and sum(widths) + GAP * (len(widths) - 1) > width:
        flexible = [index for index in range(len(widths)) if columns[index].words]
        widest = max(flexible, key=widths.__getitem__, default=0)
        if flexible and widths[widest] > MIN_WORDS_WIDTH:
            widths[widest] -= 1
        else:
            widths.pop()
    return widths
