"""Views of the rows of one W or A in a packed weight (packed_weight.py), to read and to write.

A view owns nothing: it is a slice of the packed rows and of their scales, and knows no neighbours.
`EmulatedRows` are a CPU's, `Fp8Rows` a GPU's.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from falqon_core.meld.base import BaseWeight
from falqon_core.ops.quantize import (
    E4M3_MAX,
    added,
    codes_of,
    count_changed,
    counter,
    dequantize,
    quantize_rows,
    round_rows,
    round_to_grid_,
)
from falqon_core.ops.refresh import refresh_codes, refresh_rows
from falqon_core.ops.stochastic import fold_stochastic
from falqon_core.ops.topk import fold_rows


class RandomKey(NamedTuple):
    """Keys of the random bits of a fold, each in [0, 2^31)."""

    seed: int
    step: int
    layer_index: int


class RowsView(ABC):
    """The rows of one W or A in a packed weight, to read and to write."""

    scale: Tensor  # fp32 [rows, 1]

    @property
    @abstractmethod
    def values(self) -> Tensor:
        """Return the dequantized rows, exact; not to be written to."""

    @property
    @abstractmethod
    def qdata(self) -> Tensor:
        """Return float8_e4m3fn [rows, I]; values = qdata * scale exactly."""

    @abstractmethod
    def write(self, values: Tensor, scale: Tensor) -> None:
        """Replace the rows by values on the grid of `scale` (fp32, [rows, 1] or one number)."""

    @abstractmethod
    def round(self, values: Tensor) -> None:
        """Replace the rows by `values` (fp32) rounded to the grid, with new scales."""

    @abstractmethod
    def refresh(
        self,
        base: BaseWeight,
        delta: Tensor,
        a: Tensor,
        scaling: float,
        changed: Tensor | None = None,
        first_row: int = 0,
    ) -> Tensor:
        """Rebuild the rows of a W as quantize(base + scaling * delta . a), see ops/refresh.py;
        `first_row` is the index of the first of them in the weight. Return the number of changed
        values, int64 []: `changed`, to which it is added, or a new tensor. So do both folds.
        """

    @abstractmethod
    def fold(self, rows: Tensor, delta: Tensor, a: Tensor, changed: Tensor | None = None) -> Tensor:
        """Add delta . a to `rows` (int64 [k]) of a W, scales unchanged, see ops/topk.py."""

    @abstractmethod
    def fold_stochastic(
        self,
        delta: Tensor,
        a: Tensor,
        scaling: float,
        key: RandomKey,
        changed: Tensor | None = None,
    ) -> Tensor:
        """Add scaling * delta . a to a W, rounded stochastically, see ops/stochastic.py."""

    def copy_quantized(self) -> tuple[Tensor, Tensor]:
        """Return copies of qdata and scale."""
        return self.qdata.clone(), self.scale.clone()


class EmulatedRows(RowsView):
    """Rows of a CPU: dequantized values [rows, I] in the working dtype; codes are derived on
    demand.
    """

    def __init__(self, values: Tensor, scale: Tensor) -> None:
        self._values = values
        self.scale = scale

    @property
    def values(self) -> Tensor:
        """Return the stored rows [rows, I] themselves."""
        return self._values

    @property
    def qdata(self) -> Tensor:
        """Return codes, float8_e4m3fn [rows, I]: values / scale, an exact division by a power of
        two.
        """
        return codes_of(self._values, self.scale)

    def write(self, values: Tensor, scale: Tensor) -> None:
        """Copy values [rows, I] and scales; values on the grid of their scale fit bf16 exactly."""
        self._values.copy_(values)
        self.scale.copy_(scale)

    def round(self, values: Tensor) -> None:
        """Round fp32 values [rows, I] by row and store them."""
        self.write(*quantize_rows(values))

    def refresh(
        self,
        base: BaseWeight,
        delta: Tensor,
        a: Tensor,
        scaling: float,
        changed: Tensor | None = None,
        first_row: int = 0,
    ) -> Tensor:
        """Rebuild in blocks of rows that stay in the cache."""
        values, base_scale, _ = base
        return refresh_rows(
            self._values, self.scale, values, base_scale, delta, a, scaling, changed, first_row
        )

    def fold(self, rows: Tensor, delta: Tensor, a: Tensor, changed: Tensor | None = None) -> Tensor:
        """Add delta . a to k rows in fp32, clamp to the scales' range and round to nearest."""
        scale = self.scale[rows]  # fp32 [k, 1]
        limit = E4M3_MAX * scale
        old = self._values[rows]
        # [k, I] += [k, r] . [r, I], all in fp32 so that only the last rounding is e4m3's.
        values = old.float().addmm_(delta[rows], a.float()).clamp_(-limit, limit)
        new = round_to_grid_(values, scale).to(old.dtype)
        self._values[rows] = new
        return added(changed, count_changed(old, new))

    def fold_stochastic(
        self,
        delta: Tensor,
        a: Tensor,
        scaling: float,
        key: RandomKey,
        changed: Tensor | None = None,
    ) -> Tensor:
        """Fold by way of qdata: three passes more than there need be, for a choice that is about a
        GPU's memory.
        """
        qdata = self.qdata
        # `qdata` is a copy here, derived from the values, and is changed in place.
        changed = fold_stochastic(qdata, self.scale, delta, a, scaling, *key, changed)
        self._values.copy_(dequantize(qdata, self.scale, self._values.dtype))
        return changed


class Fp8Rows(RowsView):
    """Rows of a GPU: codes [rows, I] and, for an A, their dequantized values beside them."""

    def __init__(self, qdata: Tensor, scale: Tensor, values: Tensor | None) -> None:
        """`values`: the dequantized rows [rows, I], where a copy of them is kept."""
        self._qdata = qdata
        self._values = values
        self.scale = scale

    @property
    def values(self) -> Tensor:
        """Return the dequantized rows, bf16 [rows, I]: the kept copy, or a new tensor."""
        return dequantize(self._qdata, self.scale) if self._values is None else self._values

    @property
    def qdata(self) -> Tensor:
        """Return the stored codes themselves, float8_e4m3fn [rows, I]."""
        return self._qdata

    def write(self, values: Tensor, scale: Tensor) -> None:
        """Store values [rows, I] as codes; exact, since they lie on the grid."""
        self.scale.copy_(scale)
        self._qdata.copy_(codes_of(values, scale))
        if self._values is not None:
            self._values.copy_(values)

    def round(self, values: Tensor) -> None:
        """Quantize fp32 values [rows, I] of an A by row, in one kernel."""
        assert self._values is not None, "rows of a W are rebuilt from their base"
        round_rows(self._qdata, self.scale, self._values, values)

    def refresh(
        self,
        base: BaseWeight,
        delta: Tensor,
        a: Tensor,
        scaling: float,
        changed: Tensor | None = None,
        first_row: int = 0,
    ) -> Tensor:
        """Refresh the rows; a base in host memory passes through the device in blocks of them."""
        # The base is bf16 [O, I], or int8 with base_scale fp32 [O, 1]; with a host it lies there.
        values, base_scale, host = base
        if host is None:
            return refresh_codes(
                self._qdata, self.scale, values, base_scale, delta, a, scaling, changed, first_row
            )
        changed = counter(changed, self._qdata)
        for at, block in host.blocks(values):
            refresh_codes(
                # `at` is a slice of rows; only int8 bases have scales, and those never lie in host
                # memory.
                self._qdata[at],
                self.scale[at],
                block,
                None,
                delta[at],
                a,
                scaling,
                changed,
                first_row + at.start,
            )
        return changed

    def fold(self, rows: Tensor, delta: Tensor, a: Tensor, changed: Tensor | None = None) -> Tensor:
        """Add delta . a to k rows in units of codes, in one kernel."""
        return fold_rows(self._qdata, self.scale, delta, a, rows, changed)

    def fold_stochastic(
        self,
        delta: Tensor,
        a: Tensor,
        scaling: float,
        key: RandomKey,
        changed: Tensor | None = None,
    ) -> Tensor:
        """Add scaling * delta . a to all rows, in one kernel."""
        return fold_stochastic(self._qdata, self.scale, delta, a, scaling, *key, changed)
