"""LoRA over a base whose products are in FP8, as torchao's `convert_to_float8_training` computes
them with its default recipe, "tensorwise".

The base stays in bf16. At every product x and W are cast to e4m3, backward the gradient of the
output to e5m2, each with one scale from its own largest magnitude. With `adapters_fp8` both
products of the adapters are computed so too, as where torchao converts a model that has its
adapters already; their weights' gradients come from the same casts. Merging rounds the bf16 weight
and its adapter to FP8 by row once: the casts belong to a product, not to the weight.

torchao itself is not imported: transformers would import it in every process that has it. What is
given up: torch.compile, which fuses the casts into their neighbours; and as a scale is that of a
whole microbatch, the result depends on how a step is cut.
"""

from typing import Any

import torch
from torch import Tensor

from falqon_core.methods.adapter import Adapter
from falqon_core.methods.frozen import DenseLinear, FrozenLinear
from falqon_core.methods.lora import Lora
from falqon_core.ops.formats.float8 import E4M3, E5M2, multiply, quantize_tensor


class Fp8Lora(Lora):
    """LoRA with the base's products in FP8, and the adapters' with `adapters_fp8`."""

    def create_base(self, name: str, weight: Tensor, stored: dict[str, Tensor]) -> FrozenLinear:
        """Return the bf16 weight [O, I], cast to e4m3 for each product."""
        return Fp8Linear(weight)

    def create_adapter(self, name: str, weight: Tensor) -> Adapter:
        """Return an adapter in FP8 or an ordinary one, as the recipe says."""
        kind = Fp8Adapter if self.recipe.adapters_fp8 else Adapter
        return kind(name, weight, self.recipe.rank, self.scaling, self.recipe.seed)


class Fp8Linear(DenseLinear):
    """A frozen weight that is cast for every product; none is kept in FP8."""

    def dequantize(self) -> Tensor:
        """Return the weight as forward multiplies it: [O, I], rounded to e4m3 under one scale."""
        return quantize_tensor(self.weight, E4M3).dequantize(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T [.., O] in FP8."""
        return multiply_fp8(x, self.weight)


class Fp8Adapter(Adapter):
    """An adapter whose two products are in FP8."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y [.., O] with scaling * (x A^T) B^T added."""
        product = multiply_fp8(multiply_fp8(x, self.lora_a), self.lora_b)
        return y.add(product, alpha=self.scaling)


def multiply_fp8(x: Tensor, weight: Tensor) -> Tensor:
    """Return x W^T [.., O] in the dtype of x, from x [.., I] and W [O, I]; differentiable in both,
    by gradients in the dtype of each. Nothing but x and W is kept for backward, and x only where W
    trains.
    """
    output: Tensor = _Float8Matmul.apply(x, weight)
    return output


class _Float8Matmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        ctx.save_for_backward(weight, rows if ctx.needs_input_grad[1] else None)
        # e4m3 [T, I] . e4m3 [O, I]^T -> [T, O]; fast accumulation in forward only.
        product = multiply(
            quantize_tensor(rows, E4M3),
            quantize_tensor(weight, E4M3),
            x.dtype,
            fast_accumulation=True,
        )
        return product.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor | None]:
        weight, rows = ctx.saved_tensors
        # e5m2 [T, O]: gradients need its range more than e4m3's third mantissa bit.
        grad = quantize_tensor(grad_output.reshape(-1, grad_output.shape[-1]), E5M2)
        dtype = grad_output.dtype
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            # [T, O] . [O, I] -> [T, I]
            grad_rows = multiply(grad, quantize_tensor(weight, E4M3).t(), dtype)
            grad_x = grad_rows.view(*grad_output.shape[:-1], -1)
        if rows is not None:
            # [O, T] . [T, I] -> [O, I]
            product = multiply(grad.t(), quantize_tensor(rows, E4M3).t(), dtype)
            grad_weight = product.to(weight.dtype)
        return grad_x, grad_weight
