"""The adapter that trains beside a frozen linear: y += scaling * B (A x).

A [r, I] starts uniform in +-1/sqrt(I), which is Kaiming's with a = sqrt(5) as published, and B
[O, r] at zero, so the model starts as its base. Both are fp32 masters; products are in the dtype of
x, as the rest of the model's are.
"""

import math

import torch
from torch import Tensor, nn

from falqon_core.meld.init import generator_of
from falqon_core.methods.frozen import FrozenLinear
from falqon_core.ops.matmul import add_product, trained_matmul


class Adapter(nn.Module):
    """The adapter of LoRA (arXiv 2106.09685)."""

    def __init__(self, name: str, weight: Tensor, rank: int, scaling: float, seed: int) -> None:
        """`name` of the linear and `seed` decide A; `weight` [O, I] gives sizes and device;
        `scaling` is alpha / rank.
        """
        super().__init__()
        num_outputs, num_inputs = weight.shape
        self.rank = rank
        self.scaling = scaling
        self.lora_a = nn.Parameter(self.initial_a(name, num_inputs, seed).to(weight.device))
        # B [O, r] at zero: the product starts at zero, and with it the model as its base.
        self.lora_b = nn.Parameter(torch.zeros(num_outputs, rank, device=weight.device))

    def initial_a(self, name: str, num_inputs: int, seed: int) -> Tensor:
        """Return A fp32 [r, I], uniform in +-1 / sqrt(I); drawn on the CPU: devices agree."""
        bound = 1 / math.sqrt(num_inputs)
        random = torch.rand(self.rank, num_inputs, generator=generator_of(name, seed))
        return (2 * random - 1) * bound

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y [.., O] with the product of x [.., I] added."""
        a, b = self.factors()
        # x A^T, [T, r] in the dtype of x; the masters are cast for each product.
        z = trained_matmul(x.reshape(-1, x.shape[-1]), a.to(x.dtype).t())
        # Scaling is applied in fp32, to O r numbers instead of the T O of the product.
        b = (self.scaling * b).to(x.dtype)
        # [T, O] + [T, r] . [r, O], in the dtype of x.
        return add_product(y.reshape(-1, y.shape[-1]), z, b.t()).view_as(y)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A [r, I] and B [O, r], fp32, of the ordinary adapter that computes the same."""
        return self.lora_a, self.lora_b

    @torch.no_grad()
    def product(self) -> Tensor:
        """Return the adapter's addition to the weight, scaling * B A: fp32 [O, I]."""
        a, b = self.factors()
        # [O, r] . [r, I], in fp32: the merged weight is rounded only once, afterwards.
        return self.scaling * (b @ a)


class AdaptedLinear(nn.Module):
    """A frozen linear with its adapter, in the place of an `nn.Linear`."""

    def __init__(self, base: FrozenLinear, adapter: Adapter, bias: Tensor | None) -> None:
        super().__init__()
        self.base = base
        self.adapter = adapter
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """Return y [.., O] of x [.., I]: base, adapter and bias."""
        y = self.adapter(x, self.base(x))
        return y if self.bias is None else y + self.bias

    def merged_weight(self) -> Tensor:
        """Return the weight that is exported, adapter included: fp32 [O, I]."""
        # `float` copies bf16; a master in fp32 would be changed in place.
        return self.base.master().float().add_(self.adapter.product())
