"""Cross entropy of a frozen output head, at label positions only, without ever holding all logits.

hidden [N, H] are the states that have a label, weight [V, H] the head. Chunks of rows go through logits -> softmax -> gradient, so
at most `CHUNK_BYTES` of fp32 logits live at once. The head is frozen, so the gradient of each position's loss with respect to its
hidden state is known in forward and is the only thing kept: grad = (softmax - one_hot) . weight, as large as hidden itself. Backward
only scales its rows, by one number for a plain mean or by one per position where a loss weighs sequences by what came out of them
(DPO); that is why logits need no second computation. What is given up: no gradient for the head, and the gradient is computed even
when nobody asks for it under `torch.enable_grad` (evaluation runs under `no_grad` and skips it).
"""

from typing import Any

import torch
from torch import Tensor

from falqon_core.ops.dispatch import operator

# glibc takes blocks of 32 MiB and more from the kernel anew each time: touching those pages costs ten times the arithmetic.
CHUNK_BYTES = 24 * 2**20


@operator
def cross_entropy_forward(hidden: Tensor, weight: Tensor, labels: Tensor, with_grad: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """-> (losses fp32 [N], correct predictions int64 [], gradient of each loss to its hidden state [N, H] in hidden's dtype or None).

    hidden [N, H] and weight [V, H] of one dtype; labels int64 [N] without ignored positions. Logits are rounded to hidden's dtype,
    as transformers' head does; softmax and loss are fp32.
    """
    losses = torch.empty(hidden.shape[0], device=hidden.device)
    num_correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
    grad = torch.empty_like(hidden) if with_grad else None
    chunk = max(1, CHUNK_BYTES // (4 * weight.shape[0]))
    for start in range(0, hidden.shape[0], chunk):
        at = slice(start, start + chunk)
        logits = hidden[at] @ weight.t()
        label = labels[at, None]
        top, predicted = logits.max(-1, keepdim=True)
        num_correct += (predicted == label).sum()
        probabilities = torch.softmax(logits.float(), -1)
        # log sum exp from the largest probability, which never underflows: no second pass of exponentials.
        log_sum = top.float() - probabilities.gather(-1, predicted).log()
        losses[at] = (log_sum - logits.gather(-1, label).float()).squeeze(-1)
        if grad is not None:
            probabilities.scatter_add_(-1, label, probabilities.new_full((), -1.0).expand(label.shape))
            torch.mm(probabilities.to(hidden.dtype), weight, out=grad[at])
    return losses, num_correct, grad


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        losses, num_correct, grad = cross_entropy_forward(hidden, weight, labels, ctx.needs_input_grad[0])
        ctx.save_for_backward(*([] if grad is None else [grad]))
        ctx.mark_non_differentiable(num_correct)
        return losses, num_correct

    @staticmethod
    def backward(ctx: Any, grad_losses: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * grad_losses[:, None].to(grad.dtype), None, None


def token_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """-> (losses fp32 [N], differentiable with respect to hidden; number of correct predictions int64 [])."""
    return _CrossEntropy.apply(hidden, weight, labels)


def cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """-> (summed loss fp32 [], differentiable with respect to hidden; number of correct predictions int64 [])."""
    losses, num_correct = token_cross_entropy(hidden, weight, labels)
    return losses.sum(), num_correct
