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
What is given up: grad of the delta is a GEMM of bf16 operands. It is small, and cheaper than the
FP8 transposes that it would need. A GPU leaves its sums in fp32; a CPU rounds them to bf16 once,
before gradients of microbatches are added up in fp32.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from falqon_core.meld.packed_weight import PackedWeight
from falqon_core.ops.matmul import matmul_fp32, multiply_into, scale_in_place


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
        grad_x = None
        if ctx.needs_input_grad[0]:
            # One GEMM for the group: [dy_1 | dy_2 | ..] [T, sum O] . [W_1; W_2; ..] -> [T, I].
            grad_x = ctx.packed.grad_input(cat_or_view(grads)).view(*grad_outputs[0].shape[:-1], -1)
        # The first three inputs are x, packed and scaling.
        needed = ctx.needs_input_grad[3:]
        of_trained = grad_trained(grads, o_a, kept, ctx.packed, ctx.scaling, needed)
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


def grad_trained(
    grads: Sequence[Tensor],
    o_a: Tensor,
    kept: Sequence[Tensor],
    packed: PackedWeight,
    scaling: float,
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Return, from dy_j [T, O_j] of each linear, o_a [T, n r] and the tensors of `tensors_to_keep`,
    the gradients of the group's `trained`, None where one is not `needed`.
    """
    deltas = grad_deltas(grads, o_a, scaling, needed[: len(grads)])
    return deltas + grad_masters(grads, kept, packed, scaling)


def grad_deltas(
    grads: Sequence[Tensor], o_a: Tensor, scaling: float, needed: Sequence[bool]
) -> list[Tensor | None]:
    """Return, from dy_j [T, O_j] of each linear and o_a [T, n r], the gradient of each delta, fp32
    [O_j, r], None where it is not `needed`.
    """
    parts = zip(grads, o_a.chunk(len(grads), 1), needed, strict=True)
    return [
        # [O_j, T] . [T, r] of bf16 in fp32: gradients of microbatches are summed in fp32.
        scale_in_place(matmul_fp32(grad.t(), o), scaling) if is_needed else None
        for grad, o, is_needed in parts
    ]


def grad_masters(
    grads: Sequence[Tensor], kept: Sequence[Tensor], packed: PackedWeight, scaling: float
) -> list[Tensor | None]:
    """Return, from dy_j [T, O_j] of each linear and the tensors of `tensors_to_keep`, the gradient
    of each master of A, fp32 [r, I], None where no A trains.
    """
    if not kept:
        return [None] * len(grads)
    deltas, of_x = kept[: len(grads)], kept[len(grads) :]
    # dy_j B_j, [T, n r]: the gradient of x A^T, in the working dtype.
    through_b = grads[0].new_empty(len(grads[0]), sum(delta.shape[1] for delta in deltas))
    parts = through_b.chunk(len(grads), 1)
    for part, grad, delta in zip(parts, grads, deltas, strict=True):
        multiply_into(part, grad, delta.to(grad.dtype))
    # [n r, T] . [T, I] -> fp32 [n r, I], cut into one [r, I] for each linear.
    return list(packed.grad_a(through_b, of_x, scaling).chunk(len(grads), 0))


def cat_or_view(parts: Sequence[Tensor]) -> Tensor:
    """[T, n_1], [T, n_2], .. -> [T, n_1 + n_2 + ..] with rows contiguous: a view if the parts are
    neighbours in memory, or a copy.
    """
    first = parts[0]
    total = sum(part.shape[1] for part in parts)
    # Elements from the start of the storage at which the next part has to begin.
    expected = first.storage_offset()
    for part in parts:
        if (
            part.stride() != (first.stride(0), 1)
            or part.storage_offset() != expected
            or part.untyped_storage().data_ptr() != first.untyped_storage().data_ptr()
        ):
            return torch.cat(list(parts), 1)
        expected += part.shape[1]
    # Rows that overlap are expanded tensors, such as the gradient of a sum.
    if first.stride(0) < total:
        return torch.cat(list(parts), 1)
    return first.as_strided((first.shape[0], total), (first.stride(0), 1))
