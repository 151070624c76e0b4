"""QA-LoRA (arXiv 2309.14717): weights in INT4 groups, and adapters that read one mean a group, so
that what trains only moves each group's minimum and the merged model is INT4 again.

The authors compute y = x W^T + s (pool(x) A^T) B^T, A [r, G], pool the mean of each of the G groups
of g inputs, and add s / g B A to the minima in the end. Here the adapter is in the minima from the
start, as FALQON's is in the codes: after each step they are

    m = fp16(m0 + s / sqrt(g) B A)

and the forward pass reads codes * d + m and nothing else. So there is no product beside the
weight's, and the model that is exported in INT4 is the trained one bit for bit, where fp16 minima
that are rounded once at the end lose the smallest updates. Gradients are those of the formula,
rounding taken as the identity: with the sums X [T, G] of each group's inputs, dm = dy^T X. The
factor sqrt(g) beside the authors' keeps the gradients of A and B at the scale of LoRA's.

What is given up: GPTQ's choice of codes, which the authors start from; here they are rounded to
nearest.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import ConfigError
from falqon_core.contract.methods import group_size_refusal
from falqon_core.data.loader import Microbatch
from falqon_core.meld.convert import target_linears
from falqon_core.methods.adapter import AdaptedLinear, Adapter
from falqon_core.methods.frozen import FrozenLinear
from falqon_core.methods.lora import Lora
from falqon_core.ops.formats.int4 import dequantize_int4, quantize_int4
from falqon_core.ops.matmul import matmul
from falqon_core.ops.quantize import count_changed


class QaLora(Lora):
    """The method: INT4 groups whose minima hold the adapter."""

    layers: dict[str, "Int4Linear"]

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        assert recipe.group_size is not None, "resolve the recipe first"
        self.group_size = recipe.group_size

    def create_base(self, name: str, weight: Tensor, stored: dict[str, Tensor]) -> "Int4Weight":
        """Return the weight [O, I] in INT4 groups, G = I / g of them a row."""
        return Int4Weight(weight, self.group_size)

    def create_adapter(self, name: str, weight: Tensor) -> Adapter:
        """Return an adapter of A [r, G] and B [O, r]: a group of inputs stands for an input."""
        # s / sqrt(g), see above.
        scaling = self.scaling / math.sqrt(self.group_size)
        groups = weight[:, :: self.group_size]
        return Adapter(name, groups, self.recipe.rank, scaling, self.recipe.seed)

    def create_layer(
        self, base: FrozenLinear, adapter: Adapter, bias: Tensor | None
    ) -> AdaptedLinear:
        """Return a linear that reads the adapter through the minima."""
        assert isinstance(base, Int4Weight)
        return Int4Linear(base, adapter, bias)

    def prepare(self, model: PreTrainedModel, first_microbatches: Sequence[Microbatch]) -> None:
        """Convert the model. Raises `ConfigError` for groups that do not divide the inputs."""
        linears = target_linears(model, self.recipe.target_modules)
        num_inputs = [(name, linear.in_features) for name, linear in linears.items()]
        if refusal := group_size_refusal(self.group_size, num_inputs):
            raise ConfigError(f"group_size: {refusal}", "group_size")
        super().prepare(model, first_microbatches)

    def restore(self, model: PreTrainedModel, state: dict[str, Tensor]) -> None:
        """Convert the model, fill the adapters, and rebuild the minima from them."""
        super().restore(model, state)
        self.after_step()

    @torch.no_grad()
    def after_step(self) -> float:
        """Return the share of the minima that changed."""
        changed = torch.stack([layer.refresh() for layer in self.layers.values()]).sum()
        return changed.item() / sum(
            layer.base.weight.minima.numel() for layer in self.layers.values()
        )


class Int4Weight(FrozenLinear):
    """`weight` as it is computed with; its minima move, the rest is frozen."""

    def __init__(self, weight: Tensor, group_size: int) -> None:
        super().__init__(weight)
        self.group_size = group_size
        self.weight = quantize_int4(weight, group_size)
        # fp16 [O, G]; a refresh replaces the minima, these stay.
        self._first_minima = self.weight.minima

    def dequantize(self) -> Tensor:
        """Return codes * d + m, [O, I] in the working dtype."""
        return dequantize_int4(self.weight, self.dtype)

    def codes(self) -> tuple[Tensor, ...]:
        """Return codes, steps and the minima before training."""
        return self.weight.codes, self.weight.steps, self._first_minima

    def shift_minima(self, shift: Tensor) -> Tensor:
        """Let the minima be the first ones plus `shift`, fp32 [O, G]. Return the number of changed
        minima, int64 [].
        """
        # fp32 sum, rounded to fp16 once: the delta itself is never rounded.
        minima = self._first_minima.float().add_(shift).half()
        changed = count_changed(self.weight.minima, minima)
        self.weight = self.weight._replace(minima=minima)
        return changed


class Int4Linear(AdaptedLinear):
    """A weight in INT4 with its adapter in the minima."""

    base: Int4Weight

    def refresh(self) -> Tensor:
        """Rebuild the minima from the adapter. Return the number of changed minima, int64 []."""
        return self.base.shift_minima(self.adapter.product())

    def forward(self, x: Tensor) -> Tensor:
        """Return y [.., O] of x [.., I]; gradients reach A and B through the minima."""
        adapter = self.adapter
        y: Tensor = _Int4Matmul.apply(x, adapter.lora_a, adapter.lora_b, self)
        return y if self.bias is None else y + self.bias

    def merged_weight(self) -> Tensor:
        """Return the weight, whose minima hold the adapter already: fp32 [O, I]."""
        return self.base.dequantize().float()


class _Int4Matmul(torch.autograd.Function):
    """The product with an INT4 weight; sums of its input by group, 1 / g, are kept for backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, linear: Int4Linear) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        ctx.linear = linear
        # [T, I] -> [T, G, g] -> sums [T, G]
        ctx.save_for_backward(rows.unflatten(1, (-1, linear.base.group_size)).sum(-1), a, b)
        return matmul(rows, linear.base.dequantize().t()).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        sums, a, b = ctx.saved_tensors
        rows = grad_output.reshape(-1, grad_output.shape[-1])
        grad_x = matmul(rows, ctx.linear.base.dequantize()).view(*grad_output.shape[:-1], -1)
        # dm = scaling * dy^T X: [O, T] . [T, G] -> fp32 [O, G]
        grad_minima = matmul(rows.t(), sums).float().mul_(ctx.linear.adapter.scaling)
        # dA = B^T dm [r, G], dB = dm A^T [O, r]
        return grad_x, b.t() @ grad_minima, grad_minima @ a.t(), None
