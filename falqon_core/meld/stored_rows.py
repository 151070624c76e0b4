"""The rows of one group of linears as they are stored: all of them, or of a sharded model
(sharded_layers.py) a part of the rows of W, all of A and all scales.

Products read the buffer `rows_name`: the stored rows themselves, or those of all ranks, which are
lent for the time of a layer.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from falqon_core.meld.row_shard import RowShard
from falqon_core.meld.rows_view import RowsView


class StoredRows(nn.Module, ABC):
    """The rows [sum O + n r, I] of one group of linears and their scales. Buffers stay out of the
    state dict, because base, A and delta determine them.
    """

    scale: Tensor
    rows_name: ClassVar[str]  # The buffer that products read.

    def __init__(
        self,
        sizes: Sequence[int],
        in_features: int,
        rank: int,
        num_rows: int,
        device: torch.device,
        shard: RowShard,
    ) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.in_features = in_features
        self.rank = rank
        self.num_outputs = sum(sizes)
        self.shard = shard
        # Called before rows of other ranks are read; a sharded model has them lent.
        self.borrow: Callable[[], None] = _do_nothing
        # One scale a row, of W and of A alike.
        self.register_buffer("scale", torch.ones(num_rows, 1, device=device), persistent=False)

    def w_rows(self, index: int) -> RowsView:
        """Return the W of linear `index`, of a shard the `own_rows` of it."""
        # Linear `index` starts behind the outputs of those before it: rows of W come first, all of
        # them.
        start = sum(self.sizes[:index])
        own = self.own_rows(index)
        # Stored rows begin with the first of this shard.
        first = self.shard.rows(self.num_outputs).start
        at = slice(start + own.start, start + own.stop)
        return self._view(self.stored[at.start - first : at.stop - first], at)

    def a_rows(self, index: int) -> RowsView:
        """Return the A of linear `index`."""
        start = index * self.rank
        at = slice(self.num_outputs + start, self.num_outputs + start + self.rank)
        stored = self.stored[self.shard.capacity(self.num_outputs) + start :]
        return self._view(stored[: self.rank], at)

    def own_rows(self, index: int) -> slice:
        """Return those rows of the W [O, I] of linear `index` that are stored here."""
        return self.shard.rows_by_linear(self.sizes)[index]

    def read_rows(self, index: int) -> RowsView:
        """Return the W of linear `index` whole, to read until another layer is computed."""
        self.borrow()
        start = sum(self.sizes[:index])
        at = slice(start, start + self.sizes[index])
        return self._view(self.get_buffer(self.rows_name)[at], at)

    def lend(self, rows: Tensor) -> None:
        """Let products read `rows`, [sum O + n r .., I], whose W has been gathered. A is filled in
        here.
        """
        end = self.num_outputs + len(self.sizes) * self.rank
        rows[self.num_outputs : end] = self.stored[self.shard.capacity(self.num_outputs) :]
        rows[end:] = 0
        setattr(self, self.rows_name, rows)

    def take_back(self) -> None:
        """Leave products nothing to read, until rows are lent again."""
        setattr(self, self.rows_name, self.stored[:0])

    def _store(self, rows: Tensor) -> None:
        """Keep `rows`: those of W that are in the shard, then those of A."""
        self.stored = rows
        read = rows if self.shard.is_whole else rows[:0]
        self.register_buffer(self.rows_name, read, persistent=False)

    def _num_stored(self) -> int:
        if self.shard.is_whole:
            return len(self.scale)
        return self.shard.capacity(self.num_outputs) + len(self.sizes) * self.rank

    @abstractmethod
    def _view(self, rows: Tensor, at: slice) -> RowsView:
        """Return the view of `rows`, which are those `at` of all, [sum O + n r .., I]."""


def _do_nothing() -> None:
    """Borrow nothing: all rows are here."""
