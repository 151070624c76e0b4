"""The rows of a group of linears that one of several ranks keeps.

The outputs of a group, one behind the other, are cut into parts of the same number of rows, the
last of which may be filled up; a part may hold rows of several linears, or only some of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RowShard:
    """Part `rank` of `size`; the default is all rows."""

    rank: int = 0
    size: int = 1

    @property
    def is_whole(self) -> bool:
        """True where this part is all rows."""
        return self.size == 1

    def capacity(self, num_rows: int) -> int:
        """Return the rows of every part of `num_rows`, filling included."""
        return -(-num_rows // self.size)

    def rows(self, num_rows: int) -> slice:
        """Return those of `num_rows` that are in this part."""
        capacity = self.capacity(num_rows)
        start = min(self.rank * capacity, num_rows)
        return slice(start, min(start + capacity, num_rows))

    def rows_by_linear(self, sizes: Sequence[int]) -> list[slice]:
        """Return, for each linear of a group with so many outputs, those of its rows that are in
        this part.
        """
        own = self.rows(sum(sizes))
        rows = []
        start = 0
        for size in sizes:
            first = min(max(own.start - start, 0), size)
            rows.append(slice(first, max(first, min(own.stop - start, size))))
            start += size
        return rows


WHOLE = RowShard()
