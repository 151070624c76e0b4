"""The loss of each row of logits, and its gradient.

The gradient takes the place of the logits, and fp32 numbers exist of a block of rows only. On a GPU
one program takes a row, which stays in cache: no fp32 tensor exists at all. The
kernel differs from the oracle in the last bits of the fp32 exponential and of the order of
additions. What is given up: the logits themselves.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from falqon_core.ops.dispatch import operator
from falqon_core.ops.kernels import Build, jit, round_to, tl
from falqon_core.ops.quantize import row_blocks
from falqon_core.ops.samples import Draw, SampleInput

# Logits that are fp32 at a time outside the kernel, 24 MiB: blocks of 32 MiB and more come from the
# system again at each allocation (glibc), and touching those pages costs ten times the arithmetic.
BLOCK_ELEMENTS = 6 * 2**20
# Columns of a row that one program holds at a time, and its warps.
BLOCK = 4096
NUM_WARPS = 8


@operator
def softmax_losses(
    logits: Tensor, labels: Tensor, with_grad: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return (losses fp32 [N], correct predictions int64 [], gradient of each loss to its logits
    [N, V] or None).

    logits [N, V] of any float dtype, labels int64 [N]. Softmax and loss are fp32; the gradient is
    rounded to the logits' dtype and takes their place.
    """
    losses = torch.empty(len(logits), device=logits.device)
    num_correct = torch.zeros((), dtype=torch.int64, device=logits.device)
    for at in row_blocks(logits.shape, BLOCK_ELEMENTS):
        block = logits[at]
        label = labels[at, None]
        top, predicted = block.max(-1, keepdim=True)
        num_correct += (predicted == label).sum()
        # In the place of the fp32 logits: one tensor of that size less.
        probabilities = block.to(torch.float32, copy=True)
        torch.softmax(probabilities, -1, out=probabilities)
        # The log of the sum comes from the largest probability, which never underflows: no second
        # pass of exponentials.
        log_sum = top.float() - probabilities.gather(-1, predicted).log()
        losses[at] = (log_sum - block.gather(-1, label).float()).squeeze(-1)
        if with_grad:
            # The gradient softmax - one_hot, rounded once.
            minus_one = probabilities.new_full((), -1.0).expand(label.shape)
            block.copy_(probabilities.scatter_add_(-1, label, minus_one))
    return losses, num_correct, logits if with_grad else None


def losses_and_gradients(
    _: tuple[Any, ...], result: tuple[Tensor, Tensor, Tensor | None]
) -> Sequence[Tensor]:
    """Return the tensors of a result of `softmax_losses`, for comparison."""
    losses, num_correct, grad = result
    return [losses, num_correct] if grad is None else [losses, num_correct, grad]


@softmax_losses.tried_on
def _samples(draw: Draw) -> Iterator[SampleInput]:
    labels = torch.arange(0, 208, 23, device=draw.device)
    for with_grad in (True, False):
        logits = draw.normal(len(labels), 208, dtype=torch.float32)
        logits[0, 0] += 9.0  # This prediction alone is right.
        yield SampleInput((logits.bfloat16(), labels, with_grad), losses_and_gradients)


@jit
def softmax_losses_kernel(
    logits,
    labels,
    losses,
    num_correct,
    stride,
    WITH_GRAD: tl.constexpr,
    NUM_COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Read a row: in each column of a block the largest and the sum of exponentials. With
    `WITH_GRAD` read it again and write the gradient over it.
    """
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    label = tl.load(labels + row)
    columns = tl.arange(0, BLOCK)
    # A finite start, so that no difference of two is NaN.
    largest = tl.full((BLOCK,), -3.0e38, tl.float32)
    first = tl.zeros((BLOCK,), tl.int32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, NUM_COLUMNS, BLOCK):
        at = start + columns
        value = tl.load(logits + at, mask=at < NUM_COLUMNS, other=float("-inf")).to(tl.float32)
        first = tl.where(value > largest, at, first)
        larger = tl.maximum(largest, value)
        # Online softmax: sums so far are rescaled when a column's largest value grows.
        total = total * tl.exp(largest - larger) + tl.exp(value - larger)
        largest = larger
    # The columns' maxima and sums [BLOCK] are joined into those of the row.
    top = tl.max(largest, 0)
    total = tl.sum(total * tl.exp(largest - top), 0)
    predicted = tl.min(tl.where(largest == top, first, NUM_COLUMNS), 0)
    tl.atomic_add(num_correct, (predicted == label).to(tl.int64))
    of_label = tl.load(logits + label).to(tl.float32)
    tl.store(losses + row, top + tl.log(total) - of_label)
    if WITH_GRAD:
        tl.debug_barrier()  # All threads have read the label's logit.
        for start in range(0, NUM_COLUMNS, BLOCK):
            at = start + columns
            value = tl.load(logits + at, mask=at < NUM_COLUMNS, other=0.0)
            # Probability less one_hot in fp32, rounded to the logits' dtype in their place.
            grad = tl.exp(value.to(tl.float32) - top) / total - (at == label).to(tl.float32)
            tl.store(logits + at, round_to(grad, value.dtype), mask=at < NUM_COLUMNS)


def softmax_losses_triton(
    logits: Tensor, labels: Tensor, with_grad: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Launch the kernel, one program a row; the gradient takes the place of the logits."""
    losses = torch.empty(len(logits), device=logits.device)
    num_correct = torch.zeros((), dtype=torch.int64, device=logits.device)
    softmax_losses_kernel[(len(logits),)](
        logits,
        labels,
        losses,
        num_correct,
        logits.stride(0),
        WITH_GRAD=with_grad,
        NUM_COLUMNS=logits.shape[1],
        BLOCK=BLOCK,
        num_warps=NUM_WARPS,
    )
    return losses, num_correct, logits if with_grad else None


softmax_losses.kernels["cuda"] = softmax_losses_triton

BUILDS = [
    Build(
        softmax_losses_kernel,
        {"logits": "*bf16", "labels": "*i64", "losses": "*fp32", "num_correct": "*i64"}
        | {"stride": "i32"}
        | dict.fromkeys(("WITH_GRAD", "NUM_COLUMNS", "BLOCK"), "constexpr"),
        {"WITH_GRAD": with_grad, "NUM_COLUMNS": 32000, "BLOCK": BLOCK},
        ptx=("ex2.approx", "atom.global"),
        num_warps=NUM_WARPS,
    )
    for with_grad in (True, False)
]
