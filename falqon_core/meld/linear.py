"""A linear layer whose quantized rows hold both the frozen weight and the trained adapter.

State of one layer with O outputs, I inputs, rank r:
  rows   [O + r, I]  dequantized e4m3 values of [W; A] in the working dtype (bf16 holds them exactly, see ops/quantize.py);
                     what every GEMM reads. On CPU this stands in for the FP8 tensor, whose codes are derived when a file is written.
  scale  [O + r, 1]  fp32 dequantization multiplier of each row.
  base   [O, I]      the weight as it came, never written; only for the anchored rule.
  delta  [O, r]      B, the fp32 master that the optimizer updates. The only parameter that trains.
All but delta are buffers that stay out of the state dict. What is given up: on CPU the rows take 2 bytes a weight, not 1, because
GEMMs on codes are three times slower there.
"""

import torch
from torch import Tensor, nn

from falqon_core.meld.matmul import MeldedMatmul
from falqon_core.ops.quantize import codes_of


class MeldedLinear(nn.Module):
    """Stands in for an `nn.Linear`; made by `convert_to_melded`, which fills A and the rows."""

    rows: Tensor
    scale: Tensor
    base: Tensor | None

    def __init__(
        self, weight: Tensor, bias: nn.Parameter | None, rank: int, factor: float, keep_base: bool, simulate_fp8: bool = False
    ) -> None:
        """weight [O, I] becomes the base; `factor` is alpha / rank. `keep_base=False` is for rules that write to the rows in place."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.rank, self.factor, self.simulate_fp8 = rank, factor, simulate_fp8
        self.register_buffer("rows", weight.new_zeros(self.out_features + rank, self.in_features), persistent=False)
        self.register_buffer("scale", torch.ones(self.out_features + rank, 1, device=weight.device), persistent=False)
        self.register_buffer("base", weight if keep_base else None, persistent=False)
        self.bias = bias
        self.delta = nn.Parameter(torch.zeros(self.out_features, rank, device=weight.device))

    @property
    def weight(self) -> Tensor:
        """The backbone as it stands, adapter included: [O, I], a view of the rows."""
        return self.rows[: self.out_features]

    @property
    def a(self) -> Tensor:
        """A as every formula uses it, dequantized: [r, I], a view of the rows."""
        return self.rows[self.out_features :]

    def forward(self, x: Tensor) -> Tensor:
        y = MeldedMatmul.apply(x, self.delta, self.rows, self.scale, self.factor, self.simulate_fp8)
        return y if self.bias is None else y + self.bias

    def quantized_weight(self) -> tuple[Tensor, Tensor]:
        """-> (codes float8_e4m3fn [O, I], scale fp32 [O, 1]); weight = codes * scale exactly."""
        scale = self.scale[: self.out_features]
        return codes_of(self.weight, scale), scale.clone()

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, rank={self.rank}, bias={self.bias is not None}"
