"""Linears that are never trained, with their weight in whatever form a method keeps it.

Nothing but that form is held between forward and backward: the weight is dequantized for each of
the two products, and no gradient of it is computed.
"""

import hashlib
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from falqon_core.ops.matmul import matmul


class FrozenLinear(nn.Module, ABC):
    """y = x W^T; the bias is with whoever calls it."""

    def __init__(self, weight: Tensor) -> None:
        """`weight` [O, I] is that of the base model, in the working dtype."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.dtype = weight.dtype

    @abstractmethod
    def dequantized(self) -> Tensor:
        """Return the weight as it is computed with, [O, I] in the working dtype; not to be written
        to.
        """

    def master(self) -> Tensor:
        """Return the weight that an adapter is merged into, as `dequantized` does: the same, unless
        it is kept finer than it is computed with.
        """
        return self.dequantized()

    def codes(self) -> tuple[Tensor, ...]:
        """Return what the weight was quantized to; empty where it is not quantized."""
        return ()

    def searched(self) -> dict[str, Tensor]:
        """Return what of the codes takes long to find again in the base model, for checkpoints."""
        return {}

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = _FrozenMatmul.apply(x, self)
        return output


class DenseLinear(FrozenLinear):
    """The weight as it came."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight)
        self.register_buffer("weight", weight, persistent=False)

    def dequantized(self) -> Tensor:
        return self.weight


class _FrozenMatmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: FrozenLinear) -> Tensor:
        ctx.linear = linear
        rows = x.reshape(-1, x.shape[-1])
        return matmul(rows, linear.dequantized().t()).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        rows = grad_output.reshape(-1, grad_output.shape[-1])
        grad_x = matmul(rows, ctx.linear.dequantized())
        return grad_x.view(*grad_output.shape[:-1], -1), None


def hash_codes(codes: tuple[Tensor, ...]) -> Tensor:
    """Return the sha256 of tensors' bytes, uint8 [32]."""
    digest = hashlib.sha256()
    for tensor in codes:
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)
