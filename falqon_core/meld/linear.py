"""A linear layer whose quantized rows hold both the frozen weight and the trained adapter.

State of one layer with O outputs, I inputs, rank r:
  packed  the quantized [W; A], shared with the linears that read the same input
          (packed_weight.py); this layer's part are its `w_rows` and `a_rows`.
  base    [O, I], the weight as it came or in eight bits (base.py), never written; only for the
          anchored rule.
  delta   [O, r], B, the fp32 master that the optimizer updates. The only parameter that trains,
          unless A does:
  a_master [r, I], the fp32 master of which the `a_rows` are the rounding.
All but these and the frozen bias stay out of the state dict. A linear of a group has no forward of
its own; `call_together` runs the group.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from falqon_core.contract.recipe_options import BaseCopy
from falqon_core.meld.base import BaseWeight, keep_base
from falqon_core.meld.block_quantizer import BlockQuantizer
from falqon_core.meld.host_base import HostBase
from falqon_core.meld.matmul import MeldedMatmul
from falqon_core.meld.packed_weight import PackedWeight, new_packed_weight
from falqon_core.meld.row_shard import WHOLE, RowShard
from falqon_core.meld.rows_view import RowsView
from falqon_core.ops.quantize import counter


class MeldedLinear(nn.Module):
    """Stands in for an `nn.Linear`; made by `meld`, its rows are filled by an update rule."""

    def __init__(
        self,
        packed: PackedWeight,
        index: int,
        bias: nn.Parameter | None,
        scaling: float,
        base: BaseWeight | None,
        trains_a: bool = False,
    ) -> None:
        """Take the place of linear `index` of those in `packed`; `scaling` is alpha / rank."""
        super().__init__()
        self.packed = packed
        self.index = index
        self.scaling = scaling
        self.out_features = packed.sizes[index]
        self.in_features = packed.in_features
        self.rank = packed.rank
        # The linear's place in the model and the steps so far are keys of its random bits.
        self.layer_index = 0
        self.num_folds = 0
        self.base = base
        self.bias = bias
        # B, fp32 [O, r], begins at zero: the model starts as its base.
        self.delta = nn.Parameter(
            torch.zeros(self.out_features, self.rank, device=packed.scale.device)
        )
        packed.trains_a = trains_a
        # fp32 [r, I]; the rule fills it with the values of the rounded A.
        self.a_master = (
            nn.Parameter(torch.zeros(self.rank, self.in_features, device=packed.scale.device))
            if trains_a
            else None
        )

    @property
    def w_rows(self) -> RowsView:
        """Return the rows of W [O, I] in the packed weight, to read and to write; of a shard the
        `own_rows`.
        """
        return self.packed.w_rows(self.index)

    @property
    def own_rows(self) -> slice:
        """Return those rows of W that are stored here: all, unless the model is sharded."""
        return self.packed.own_rows(self.index)

    @property
    def a_rows(self) -> RowsView:
        """Return the rows of A [r, I] in the packed weight, to read and to write."""
        return self.packed.a_rows(self.index)

    @property
    def weight(self) -> Tensor:
        """Return the backbone as it stands, adapter included: dequantized [O, I]."""
        return self.packed.read_rows(self.index).values

    @property
    def a(self) -> Tensor:
        """Return A as every formula uses it: dequantized [r, I]."""
        return self.a_rows.values

    @property
    def block_quantizer(self) -> BlockQuantizer | None:
        """Return the quantizer of rows in blocks, fitted to its group; None for e4m3."""
        return self.packed.quantizer

    def forward(self, x: Tensor) -> Tensor:
        """Return y [.., O] of x [.., I], for a linear that shares its rows with no other."""
        assert len(self.packed.sizes) == 1, (
            "this linear shares its rows with others; call_together runs them"
        )
        return _forward(x, [self])[0]

    def refresh(self, changed: Tensor | None = None) -> Tensor:
        """Rebuild the own rows of the weight from base and delta. Return the number of changed
        values, int64 []: `changed`, to which it is added, or a new tensor.
        """
        # W = quantize(base + scaling * B . A), with base [O, I], B fp32 [O, r], A [r, I]
        # dequantized.
        own = self.own_rows
        delta = self.delta.detach()[own]
        if not len(delta):
            return counter(changed, delta)
        assert self.base is not None, "there is no base to rebuild from"
        return self.w_rows.refresh(self.base, delta, self.a, self.scaling, changed, own.start)

    @torch.no_grad()
    def round_a(self) -> None:
        """Make the rows of A those of its master, where it has one."""
        if self.a_master is not None:
            self.a_rows.round(self.a_master)

    def quantized_weight(self) -> tuple[Tensor, Tensor]:
        """Return qdata, float8_e4m3fn [O, I], and scale, fp32 [O, 1], weight = qdata * scale
        exactly; of blocks codes, uint8 [O, I], and scales, fp32 [O, I / block].
        """
        return self.packed.read_rows(self.index).copy_quantized()

    def extra_repr(self) -> str:
        """Return the sizes for `repr`, as `nn.Linear` does."""
        has_bias = self.bias is not None
        return f"{self.in_features}, {self.out_features}, rank={self.rank}, bias={has_bias}"


def meld(
    linears: Sequence[nn.Linear],
    rank: int,
    scaling: float,
    base_copy: BaseCopy | None = "device",
    simulate_fp8: bool = False,
    host: HostBase | None = None,
    trains_a: bool = False,
    shard: RowShard = WHOLE,
    quantizer: BlockQuantizer | None = None,
) -> list[MeldedLinear]:
    """Return empty melded linears for `linears`, which read the same input.

    Their weights become the bases, kept where `base_copy` says (None: nowhere, "host": in `host`),
    of a `shard` its rows only; biases are taken along. Rows are e4m3, or in the blocks of a
    fitted `quantizer`, by scales that the weights choose.
    """
    weights = [linear.weight.detach() for linear in linears]
    sizes = [len(weight) for weight in weights]
    # One matrix [O_1 + O_2 + .. + n r, I] for the whole group.
    packed = new_packed_weight(sizes, rank, weights[0], simulate_fp8, shard, quantizer)
    if not shard.is_whole:
        # Copies, since a part keeps the memory of the whole weight; a part may be empty.
        parts = zip(weights, shard.rows_by_linear(sizes), strict=True)
        weights = [weight[own].clone() for weight, own in parts]
    if quantizer is not None:
        for index, weight in enumerate(weights):
            packed.w_rows(index).scale.copy_(quantizer.choose_scales(weight))
    bases = [
        keep_base(weight, base_copy, host) if base_copy is not None and len(weight) else None
        for weight in weights
    ]
    return [
        MeldedLinear(packed, index, linear.bias, scaling, base, trains_a)
        for index, (linear, base) in enumerate(zip(linears, bases, strict=True))
    ]


def call_together(x: Tensor, *linears: nn.Module) -> list[Tensor]:
    """Return the outputs of linears that read the same x [..., I]: one GEMM when they were melded
    together, else one each.
    """
    melded = [linear for linear in linears if isinstance(linear, MeldedLinear)]
    if len(melded) < len(linears) or len(melded[0].packed.sizes) == 1:
        return [linear(x) for linear in linears]
    return _forward(x, melded)


def _forward(x: Tensor, group: Sequence[MeldedLinear]) -> list[Tensor]:
    packed = group[0].packed
    assert all(layer.packed is packed for layer in group), "these linears were not melded together"
    assert [layer.index for layer in group] == list(range(len(packed.sizes))), (
        "a group is called whole and in its order"
    )
    # One autograd function for the group: all deltas get their gradients in one backward.
    return add_biases(
        MeldedMatmul.apply(x, packed, group[0].scaling, *trained_tensors(group)), group
    )


def trained_tensors(group: Sequence[MeldedLinear]) -> list[Tensor | None]:
    """Return the trained tensors of a group for its autograd function: the deltas fp32 [O_j, r],
    then the masters of A fp32 [r, I] or None.
    """
    return [*(layer.delta for layer in group), *(layer.a_master for layer in group)]


def add_biases(outputs: Sequence[Tensor], group: Sequence[MeldedLinear]) -> list[Tensor]:
    """Return the outputs [.., O_j], each with the bias [O_j] of its linear, where there is one."""
    return [
        y if layer.bias is None else y + layer.bias for y, layer in zip(outputs, group, strict=True)
    ]
