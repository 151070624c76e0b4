"""The autograd function of the method: the linears of one group, forward and backward.

Forward is one GEMM: x [T, I] . [W_1; ..; A_1; ..]^T = [y_1 | .. | o_a_1 | ..]. Backward: grad_input
= [dy_1 | ..] . [W_1; ..], one GEMM, and for each linear grad of its delta = scaling * dy^T . o_a.
A here is its own dequantized FP8 value, so this is the exact gradient of W + scaling * B . A before
the sum is rounded; the rounding counts as the identity. Of a group whose A are frozen only the o_a
[T, n r] are kept for backward, never x: no weight gradient needs it. Rows are frozen between
forward and backward; they are kept by reference, not as saved tensors.

Of a group whose A train x is kept as well: with FP8 GEMMs as the e4m3 codes that the GEMM has just
read, with a scale per token, a byte an element. On a GPU without FP8 it is kept as it is, two bytes
an element, and on a CPU, because casts to e4m3 and back took more time than the GEMMs of this
gradient.
Then grad of A_j = scaling * (dy_j B_j)^T x, one GEMM for the group. A's rounding to e4m3 counts as
the identity as well, and so does that of x where x is rounded.

The dy are joined without a copy when they lie side by side in one buffer, as those of gate and up
do (ops/swiglu.py). Its parts serve fused.py too, where norms and SwiGLU take part in the function.
With FP8 GEMMs one product gives grad_input and all dy_j B_j, and every gradient reads the codes
that dy becomes for it (packed_weight.py). Elsewhere the gradients of A and B are products of bf16
operands (gradients.py): a GPU leaves their sums in fp32; a CPU rounds them to bf16 once, before
gradients of microbatches are added up in fp32.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from falqon_core.meld.packed_weight import PackedWeight


class MeldedMatmul(torch.autograd.Function):
    """(x [..., I], packed, scaling, trained) -> y_j [..., O_j] of each linear, views of one buffer.

    The `trained` of a group are its deltas, fp32 [O_j, r], then its masters of A, fp32 [r, I], or
    None in their places where A is frozen.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, packed: PackedWeight, scaling: float, *trained: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Multiply x [.., I] with all rows of the group; keep o_a, and x where an A trains."""
        both, kept = output_and_kept(x.reshape(-1, x.shape[-1]), packed, trained)
        # A copy of o_a [T, n r]: the view would keep all outputs alive until backward.
        ctx.save_for_backward(o_a_of(both, packed).clone(), *kept)
        ctx.packed = packed
        ctx.scaling = scaling
        return outputs_of(both, packed, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x [.., I] and of the trained tensors, from dy_j [.., O_j]."""
        o_a, *kept = ctx.saved_tensors
        # dy_j [T, O_j]
        grads = [grad.reshape(-1, grad.shape[-1]) for grad in grad_outputs]
        # The inputs between x and those that train are packed and scaling.
        needed = ctx.needs_input_grad[:1] + ctx.needs_input_grad[3:]
        grad_x, of_trained = ctx.packed.gradients(grads, o_a, kept, ctx.scaling, needed)
        if grad_x is not None:
            grad_x = grad_x.view(*grad_outputs[0].shape[:-1], -1)
        return grad_x, None, None, *of_trained


def output_and_kept(
    x: Tensor, packed: PackedWeight, trained: Sequence[Tensor | None]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the product of x [T, I] with `packed`, [T, sum O + n r ..], and the tensors that a
    gradient of A needs.
    """
    if trained[-1] is None:
        return packed.output(x), ()
    both, of_x = packed.output_and_input(x)
    return both, tensors_to_keep(of_x, trained)


def tensors_to_keep(of_x: Sequence[Tensor], trained: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """Return the tensors that a gradient of A needs: the deltas fp32 [O_j, r] and those kept of x;
    none where no A trains.
    """
    if trained[-1] is None:
        return ()
    # The first half are the deltas, the second the masters of A.
    deltas = trained[: len(trained) // 2]
    return (*(delta for delta in deltas if delta is not None), *of_x)


def outputs_of(both: Tensor, packed: PackedWeight, leading: Sequence[int]) -> tuple[Tensor, ...]:
    """Return the y_j [*leading, O_j] in the product `both` [T, sum O + n r ..] of x with `packed`,
    as views.
    """
    return both[:, : packed.num_outputs].view(*leading, -1).split(packed.sizes, -1)


def o_a_of(both: Tensor, packed: PackedWeight) -> Tensor:
    """Return the o_a [T, n r] in it, as a view; a reference to it keeps all of `both` alive."""
    return both.narrow(1, packed.num_outputs, len(packed.sizes) * packed.rank)
