"""A trained linear as it is served: quantized to FP8 once, after training."""

import torch
from torch import Tensor, nn

from falqon_core.meld.packed_weight import new_packed_weight
from falqon_core.ops.quantize import quantize_rows


class MergedLinear(nn.Module):
    """Codes and scales of one weight. It computes as a melded linear without an adapter does."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        """Round `weight`, fp32 [O, I], to e4m3 by row; `dtype` is the one that is computed in."""
        super().__init__()
        # Only device, dtype and I are read of it.
        like = weight.new_empty(0, weight.shape[1], dtype=dtype)
        # A group of one linear with rank 0: no rows of A.
        self.packed = new_packed_weight([len(weight)], 0, like, simulate_fp8=False)
        # fp32 [O, I] -> codes and scales fp32 [O, 1]; the only rounding of the sum.
        self.packed.w_rows(0).write(*quantize_rows(weight))
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """Return y [.., O] of x [.., I], from codes where the device multiplies them."""
        # [T, O ..]: an FP8 GPU pads the rows to a multiple of 16.
        rows = self.packed.output(x.reshape(-1, x.shape[-1]))
        y = rows[:, : self.packed.num_outputs].view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias

    def quantized_weight(self) -> tuple[Tensor, Tensor]:
        """Return qdata, float8_e4m3fn [O, I], and scale, fp32 [O, 1]."""
        return self.packed.w_rows(0).copy_quantized()
