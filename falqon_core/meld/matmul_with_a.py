"""The autograd function of a group whose A train as well: `matmul.py`, and the gradients of A.

What the linears read is kept for backward: on a GPU as e4m3 codes with a scale per token, a byte
an element; with FP8 GEMMs they are those that the GEMM has just read. On a CPU it is kept as it is,
two bytes an element, because casts to e4m3 and back took more time than the GEMMs of this gradient.
Then grad of A_j = scaling * (dy_j B_j)^T x, one GEMM for the group. A's rounding to e4m3 counts as
the identity, and so does that of x where x is rounded, so this gradient is not exact, as that of B
is.
"""

from typing import Any

import torch
from torch import Tensor

from falqon_core.meld.matmul import cat_or_view, grad_deltas, o_a_of, outputs_of, scaled
from falqon_core.meld.packed_weight import PackedWeight
from falqon_core.ops.matmul import matmul


class MeldedMatmulWithA(torch.autograd.Function):
    """(x [..., I], packed, scaling, delta fp32 [O_j, r] of each linear, then the master of A, fp32
    [r, I], of each) -> y_j [..., O_j] of each, views of one buffer.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, packed: PackedWeight, scaling: float, *deltas_and_masters: Tensor
    ) -> tuple[Tensor, ...]:
        both, kept = packed.output_and_input(x.reshape(-1, x.shape[-1]))
        deltas = deltas_and_masters[: len(packed.sizes)]
        ctx.save_for_backward(o_a_of(both, packed).clone(), *deltas, *kept)
        ctx.packed = packed
        ctx.scaling = scaling
        return outputs_of(both, packed, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        o_a, *others = ctx.saved_tensors
        deltas, kept = others[: len(grad_outputs)], others[len(grad_outputs) :]
        grads = [grad.reshape(-1, grad.shape[-1]) for grad in grad_outputs]
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = ctx.packed.grad_input(cat_or_view(grads)).view(*grad_outputs[0].shape[:-1], -1)
        of_deltas = grad_deltas(grads, o_a, ctx.scaling, [True] * len(grads))
        through_b = torch.cat(
            [matmul(grad, delta.to(grad.dtype)) for grad, delta in zip(grads, deltas, strict=True)],
            1,
        )
        x = ctx.packed.input_of(kept, through_b.dtype)
        of_a = scaled(matmul(through_b.t(), x).float(), ctx.scaling)
        return grad_x, None, None, *of_deltas, *of_a.chunk(len(grads), 0)
