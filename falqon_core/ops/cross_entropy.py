"""Cross entropy of a frozen output head, at label positions only, without ever holding all logits.

hidden [N, H] are the states that have a label. Chunks of rows go through logits -> softmax ->
gradient, so the logits of one chunk exist at a time, in the working dtype. The head is frozen, so
the gradient of each position's loss with respect to its hidden state is known in forward and is the
only thing kept: grad = (softmax - one_hot) . weight, as large as hidden itself; scaling or capping
of the logits has its derivative between the two factors. Backward only scales its rows, by one
number for a plain mean or by one per position where a loss weighs sequences by their results (DPO);
that is why logits need no second computation. What is given up: no gradient for the head, and under
`torch.enable_grad` the gradient is computed even where it is not used (evaluation runs under
`no_grad` and skips it); logits that are scaled or capped have no kernel of ours.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from falqon_core.ops.dispatch import operator
from falqon_core.ops.matmul import matmul
from falqon_core.ops.softmax_losses import softmax_losses

# Logits of one chunk. Every chunk reads the whole head twice, and widens it where products are
# widened; 256 rows of 49,152 logits are 24 MiB, which the allocator keeps (glibc, below 32 MiB).
CHUNK_LOGITS = 12 * 2**20
GPU_CHUNK_LOGITS = 64 * 2**20


class Head(NamedTuple):
    """The output head: logits = cap * tanh(scale * hidden . weight^T / cap), without a cap scale *
    hidden . weight^T.
    """

    weight: Tensor  # [V, H]
    scale: float = 1.0
    cap: float | None = None

    @property
    def is_plain(self) -> bool:
        """True where logits are neither scaled nor capped."""
        return self.scale == 1.0 and self.cap is None

    def logits(self, hidden: Tensor) -> Tensor:
        """Return [N, V]: rounded to hidden's dtype by the product, as transformers' head does, and
        fp32 from there where they are scaled or capped.
        """
        logits = matmul(hidden, self.weight.t())
        if self.is_plain:
            return logits
        logits = logits.float().mul_(self.scale)
        if self.cap is not None:
            logits.div_(self.cap).tanh_().mul_(self.cap)
        return logits

    def chunk_rows(self, device: torch.device) -> int:
        """Return the rows of one chunk of logits."""
        if device.type != "cpu":
            num_logits = GPU_CHUNK_LOGITS
        elif self.is_plain:
            num_logits = CHUNK_LOGITS
        else:
            # In fp32, as are their derivatives.
            num_logits = CHUNK_LOGITS // 2
        return max(1, num_logits // self.weight.shape[0])

    def derivative_(self, logits: Tensor) -> Tensor:
        """Replace the logits of a head that is not plain by their derivative with respect to
        hidden . weight^T.
        """
        if self.cap is None:
            return logits.fill_(self.scale)
        return logits.div_(self.cap).square_().neg_().add_(1.0).mul_(self.scale)


@operator
def cross_entropy_forward(
    hidden: Tensor, head: Head, labels: Tensor, with_grad: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return (losses fp32 [N], correct predictions int64 [], gradient of each loss to its hidden
    state [N, H] in hidden's dtype or None).

    hidden [N, H] and the head's weight of one dtype; labels int64 [N] without ignored positions.
    Softmax and loss are fp32.
    """
    losses = torch.empty(hidden.shape[0], device=hidden.device)
    num_correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
    grad = torch.empty_like(hidden) if with_grad else None
    chunk = head.chunk_rows(hidden.device)
    losses_of = softmax_losses if head.is_plain else softmax_losses.oracle
    for start in range(0, hidden.shape[0], chunk):
        at = slice(start, start + chunk)
        logits = head.logits(hidden[at])
        # The gradient takes the place of the logits.
        derivative = None if head.is_plain or grad is None else head.derivative_(logits.clone())
        losses[at], correct, of_logits = losses_of(logits, labels[at], with_grad)
        num_correct += correct
        if grad is not None and of_logits is not None:
            if derivative is not None:
                of_logits.mul_(derivative)
            # [chunk, V] . [V, H] in the working dtype; softmax - one_hot is rounded to it once.
            grad[at] = matmul(of_logits.to(hidden.dtype), head.weight)
    return losses, num_correct, grad


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Head, labels: Tensor) -> tuple[Tensor, Tensor]:
        losses, num_correct, grad = cross_entropy_forward(
            hidden, head, labels, ctx.needs_input_grad[0]
        )
        ctx.save_for_backward(*([] if grad is None else [grad]))
        ctx.mark_non_differentiable(num_correct)
        return losses, num_correct

    @staticmethod
    def backward(ctx: Any, grad_losses: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = ctx.saved_tensors
        # [N, H] times one number a position: the head is not read again.
        return grad * grad_losses[:, None].to(grad.dtype), None, None


def token_cross_entropy(hidden: Tensor, head: Head, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return (losses fp32 [N], differentiable with respect to hidden; number of correct predictions
    int64 []).
    """
    return _CrossEntropy.apply(hidden, head, labels)


def cross_entropy(hidden: Tensor, head: Head, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return (summed loss fp32 [], differentiable with respect to hidden; number of correct
    predictions int64 []).
    """
    losses, num_correct = token_cross_entropy(hidden, head, labels)
    return losses.sum(), num_correct
