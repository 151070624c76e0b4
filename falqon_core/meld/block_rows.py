"""The rows of a W whose weights are quantized in blocks (block_quantizer.py), by the anchored rule.

The scales are those that the base alone has, and stay: a step changes codes, never a scale. So they
follow from the base, and a training that continues finds them again.
"""

from collections.abc import Iterator

from torch import Tensor

from falqon_core.meld.base import BaseWeight
from falqon_core.meld.block_quantizer import BLOCK_ELEMENTS, BlockQuantizer
from falqon_core.meld.rows_view import EmulatedRows, RandomKey
from falqon_core.ops.matmul import matmul
from falqon_core.ops.quantize import count_changed, counter, row_blocks
from falqon_core.ops.refresh import base_values


class BlockRows(EmulatedRows):
    """Dequantized values [rows, I] in the working dtype, which holds them exactly, and scales fp32
    [rows, I / block]; codes are derived on demand.
    """

    def __init__(self, values: Tensor, scale: Tensor, quantizer: BlockQuantizer) -> None:
        super().__init__(values, scale)
        self._quantizer = quantizer

    @property
    def qdata(self) -> Tensor:
        """Return codes, uint8 [rows, I]."""
        return self._quantizer.codes_of(self._values, self.scale)

    def round(self, values: Tensor) -> None:
        """Round fp32 values [rows, I] by scales of their own and store both."""
        self.write(*self._quantizer.quantize(values))

    def refresh(
        self,
        base: BaseWeight,
        delta: Tensor,
        a: Tensor,
        scaling: float,
        changed: Tensor | None = None,
        first_row: int = 0,
    ) -> Tensor:
        """Rebuild the rows by the scales that they have."""
        changed = counter(changed, self._values)
        for at, values in self._sums(base, delta, a, scaling, first_row):
            new = self._quantizer.round_values(values, self.scale[at]).to(self._values.dtype)
            changed += count_changed(self._values[at], new)
            self._values[at] = new
        return changed

    def fold(self, rows: Tensor, delta: Tensor, a: Tensor, changed: Tensor | None = None) -> Tensor:
        """Refuse: the published rule has one scale for all of [W; A]."""
        raise NotImplementedError("blocks are rebuilt from a base: use update_rule 'anchored'")

    def fold_stochastic(
        self,
        delta: Tensor,
        a: Tensor,
        scaling: float,
        key: RandomKey,
        changed: Tensor | None = None,
    ) -> Tensor:
        """Refuse: the rule without a base adds to e4m3 codes."""
        raise NotImplementedError("blocks are rebuilt from a base: keep a base copy")

    def choose_scales(self, base: BaseWeight, delta: Tensor, a: Tensor, scaling: float) -> None:
        """Choose the scales again, for the sum of base and delta; the rows stay as they are."""
        for at, values in self._sums(base, delta, a, scaling, 0):
            self.scale[at] = self._quantizer.choose_scales(values)

    def _sums(
        self, base: BaseWeight, delta: Tensor, a: Tensor, scaling: float, first_row: int
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yield base + scaling * delta . a in blocks of rows that stay in the cache, fp32."""
        values, base_scale, _ = base
        scaled = (delta * scaling).to(a.dtype)
        for at in row_blocks(values.shape, BLOCK_ELEMENTS):
            rows = base_values(values, base_scale, at, first_row)
            yield at, rows.add_(matmul(scaled[at], a))
