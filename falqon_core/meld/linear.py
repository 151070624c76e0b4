"""A linear layer whose quantized rows hold both the frozen weight and the trained adapter.

State of one layer with O outputs, I inputs, rank r:
  rows   its part of the quantized [W; A], values and scales; shared with the linears that read the same input (rows.py).
  base   [O, I], the weight as it came, never written; only for the anchored rule. On the layer's device or in (pinned) host memory.
  delta  [O, r], B, the fp32 master that the optimizer updates. The only parameter that trains.
All but delta and the frozen bias stay out of the state dict. What is given up: a linear of a group has no forward of its own;
`call_together` runs the group.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from falqon_core.contract.config import BaseCopy
from falqon_core.meld.matmul import MeldedMatmul
from falqon_core.meld.rows import PackedWeight, new_rows


class MeldedLinear(nn.Module):
    """Stands in for an `nn.Linear`; made by `meld`, its rows and A are filled by an update rule."""

    base: Tensor | None

    def __init__(self, rows: PackedWeight, index: int, bias: nn.Parameter | None, factor: float, base: Tensor | None) -> None:
        """Linear `index` of those whose rows are `rows`; `factor` is alpha / rank."""
        super().__init__()
        self.rows, self.index, self.factor = rows, index, factor
        self.out_features, self.in_features, self.rank = rows.sizes[index], rows.in_features, rows.rank
        self.number = self.num_folds = 0  # the linear's place in the model, and steps so far: keys of its random bits
        self.register_buffer("base", base, persistent=False)
        self.bias = bias
        self.delta = nn.Parameter(torch.zeros(self.out_features, self.rank, device=rows.scale.device))

    @property
    def weight(self) -> Tensor:
        """The backbone as it stands, adapter included: dequantized [O, I]."""
        return self.rows.values(self.rows.weight_at(self.index))

    @property
    def scale(self) -> Tensor:
        """fp32 [O, 1], a view."""
        return self.rows.scale[self.rows.weight_at(self.index)]

    @property
    def a(self) -> Tensor:
        """A as every formula uses it: dequantized [r, I]."""
        return self.rows.values(self.rows.a_at(self.index))

    @property
    def a_scale(self) -> Tensor:
        """fp32 [r, 1], a view."""
        return self.rows.scale[self.rows.a_at(self.index)]

    def forward(self, x: Tensor) -> Tensor:
        assert len(self.rows.sizes) == 1, "this linear shares its rows with others; call_together runs them"
        return _forward(x, [self])[0]

    def set_weight(self, values: Tensor, scale: Tensor) -> None:
        """values [O, I] on the grid of scale, [O, 1] or one number."""
        self.rows.write(self.rows.weight_at(self.index), values, scale)

    def set_a(self, values: Tensor, scale: Tensor) -> None:
        """values [r, I] on the grid of scale, [r, 1] or one number."""
        self.rows.write(self.rows.a_at(self.index), values, scale)

    def refresh(self) -> Tensor:
        """Rebuild the weight's rows from base and delta; -> how many values changed, int64 []."""
        assert self.base is not None, "there is no base to rebuild from"
        return self.rows.refresh(self.rows.weight_at(self.index), self.base, self.delta.detach(), self.a, self.factor)

    def fold(self, chosen: Tensor) -> Tensor:
        """Add delta . A to the weight's rows `chosen` (int64 [k]), scales unchanged; -> how many values changed, int64 []."""
        return self.rows.fold(self.rows.weight_at(self.index), chosen, self.delta.detach(), self.a)

    def fold_stochastic(self, seed: int) -> Tensor:
        """Add factor * delta . A to the weight, rounded stochastically; -> how many values changed, int64 []."""
        at, step = self.rows.weight_at(self.index), self.num_folds
        self.num_folds += 1
        return self.rows.fold_stochastic(at, self.delta.detach(), self.a, self.factor, seed, step, self.number)

    def quantized_weight(self) -> tuple[Tensor, Tensor]:
        """-> (codes float8_e4m3fn [O, I], scale fp32 [O, 1]); weight = codes * scale exactly."""
        return self.rows.codes_at(self.rows.weight_at(self.index)).clone(), self.scale.clone()

    def quantized_a(self) -> tuple[Tensor, Tensor]:
        """-> (codes float8_e4m3fn [r, I], scale fp32 [r, 1])."""
        return self.rows.codes_at(self.rows.a_at(self.index)).clone(), self.a_scale.clone()

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, rank={self.rank}, bias={self.bias is not None}"


def meld(
    linears: Sequence[nn.Linear], rank: int, factor: float, base_copy: BaseCopy | None = "device", simulate_fp8: bool = False
) -> list[MeldedLinear]:
    """Empty melded linears for `linears`, which read the same input.

    Their weights become the bases, kept where `base_copy` says (None: by nobody); biases are taken along.
    """
    weights = [linear.weight.detach() for linear in linears]
    rows = new_rows([len(weight) for weight in weights], rank, weights[0], simulate_fp8)
    return [
        MeldedLinear(rows, index, linear.bias, factor, _base(weight, base_copy))
        for index, (linear, weight) in enumerate(zip(linears, weights, strict=True))
    ]


def call_together(x: Tensor, *linears: nn.Module) -> list[Tensor]:
    """The outputs of linears that read the same x [..., I]: one GEMM when they were melded together, else one each."""
    melded = [linear for linear in linears if isinstance(linear, MeldedLinear)]
    if len(melded) < len(linears) or len(melded[0].rows.sizes) == 1:
        return [linear(x) for linear in linears]
    return _forward(x, melded)


def _forward(x: Tensor, group: Sequence[MeldedLinear]) -> list[Tensor]:
    rows, factor = group[0].rows, group[0].factor
    assert all(layer.rows is rows for layer in group), "these linears were not melded together"
    assert [layer.index for layer in group] == list(range(len(rows.sizes))), "a group is called whole and in its order"
    return add_biases(MeldedMatmul.apply(x, rows, factor, *(layer.delta for layer in group)), group)


def add_biases(outputs: Sequence[Tensor], group: Sequence[MeldedLinear]) -> list[Tensor]:
    return [y if layer.bias is None else y + layer.bias for y, layer in zip(outputs, group, strict=True)]


def _base(weight: Tensor, base_copy: BaseCopy | None) -> Tensor | None:
    if base_copy is None:
        return None
    return weight.cpu().pin_memory() if base_copy == "host" and weight.device.type != "cpu" else weight
