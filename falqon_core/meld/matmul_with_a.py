"""The autograd function of a group whose A train as well: `matmul.py`, and the gradients of A.

What the linears read is kept for backward as e4m3 codes with a scale per token, a byte an element;
on an FP8 GPU they are those that the GEMM has just read. Then grad of A_j = scaling * (dy_j B_j)^T
x, one GEMM for the group. A's rounding to e4m3 counts as the identity, and so does that of x, so
this gradient is not exact, as that of B is.
"""

from typing import Any

import torch
from torch import Tensor

from falqon_core.meld.matmul import cat_or_view, grad_deltas, o_a_of, outputs_of
from falqon_core.meld.packed_weight import PackedWeight
from falqon_core.ops.matmul import matmul
from falqon_core.ops.quantize import dequantize


class MeldedMatmulWithA(torch.autograd.Function):
    """(x [..., I], packed, scaling, delta fp32 [O_j, r] of each linear, then the master of A, fp32
    [r, I], of each) -> y_j [..., O_j] of each, views of one buffer.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, packed: PackedWeight, scaling: float, *deltas_and_masters: Tensor
    ) -> tuple[Tensor, ...]:
        both, codes, scale = packed.output_and_codes(x.reshape(-1, x.shape[-1]))
        deltas = deltas_and_masters[: len(packed.sizes)]
        ctx.save_for_backward(o_a_of(both, packed).clone(), codes, scale, *deltas)
        ctx.packed = packed
        ctx.scaling = scaling
        return outputs_of(both, packed, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        o_a, codes, scale, *deltas = ctx.saved_tensors
        grads = [grad.reshape(-1, grad.shape[-1]) for grad in grad_outputs]
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = ctx.packed.grad_input(cat_or_view(grads)).view(*grad_outputs[0].shape[:-1], -1)
        of_deltas = grad_deltas(grads, o_a, ctx.scaling, [True] * len(grads))
        through_b = torch.cat(
            [
                matmul(grad, (ctx.scaling * delta).to(grad.dtype))
                for grad, delta in zip(grads, deltas, strict=True)
            ],
            1,
        )
        of_a = matmul(through_b.t(), dequantize(codes, scale, through_b.dtype)).float()
        return grad_x, None, None, *of_deltas, *of_a.chunk(len(grads), 0)
