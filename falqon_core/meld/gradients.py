"""The gradients of a group in the working dtype: those of deltas and masters of A, and joining the
gradients of its outputs. Where they are codes, ops/grad_adapter.py has them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from falqon_core.ops.matmul import matmul_fp32, multiply_into, scale_in_place


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


def grads_through_deltas(
    grads: Sequence[Tensor], deltas: Sequence[Tensor], dtype: torch.dtype
) -> Tensor:
    """Return dy_j B_j of each linear, side by side, [T, n r]: the gradient of x A^T, in the working
    `dtype`; dy_j [T, O_j], the deltas fp32 [O_j, r].
    """
    size = len(grads[0]), sum(delta.shape[1] for delta in deltas)
    joined = grads[0].new_empty(size, dtype=dtype)
    for part, grad, delta in zip(joined.chunk(len(grads), 1), grads, deltas, strict=True):
        multiply_into(part, grad, delta.to(dtype))
    return joined


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
