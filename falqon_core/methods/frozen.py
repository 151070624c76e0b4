"""Linears that are never trained, with their weight in the form that a method keeps.

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
    """A linear y = x W^T without gradients of W; its caller adds the bias."""

    def __init__(self, weight: Tensor) -> None:
        """`weight` [O, I] is that of the base model, in the working dtype."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.dtype = weight.dtype

    @abstractmethod
    def dequantize(self) -> Tensor:
        """Return the weight as it is computed with, [O, I] in the working dtype; read-only."""

    def master(self) -> Tensor:
        """Return the weight that an adapter is merged into, as `dequantized` does: the same, unless
        it is kept finer than it is computed with.
        """
        return self.dequantize()

    def codes(self) -> tuple[Tensor, ...]:
        """Return the tensors of the quantized weight; none where it is not quantized."""
        return ()

    def search_results(self) -> dict[str, Tensor]:
        """Return what a search of the base model has chosen, for checkpoints."""
        return {}

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T [.., O] of x [.., I], differentiable in x."""
        output: Tensor = _FrozenMatmul.apply(x, self)
        return output


class DenseLinear(FrozenLinear):
    """A frozen linear with the weight as it came, [O, I]."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight)
        self.register_buffer("weight", weight, persistent=False)

    def dequantize(self) -> Tensor:
        """Return the weight itself."""
        return self.weight

    def master(self) -> Tensor:
        """Return the weight itself, also where a subclass computes with rounded values."""
        return self.weight


class _FrozenMatmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: FrozenLinear) -> Tensor:
        # The module is kept, not its dequantized weight: backward dequantizes again.
        ctx.linear = linear
        rows = x.reshape(-1, x.shape[-1])
        # [T, I] . [O, I]^T -> [T, O]
        return matmul(rows, linear.dequantize().t()).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        rows = grad_output.reshape(-1, grad_output.shape[-1])
        # [T, O] . [O, I] -> [T, I]
        grad_x = matmul(rows, ctx.linear.dequantize())
        return grad_x.view(*grad_output.shape[:-1], -1), None


def tensors_of(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the linear `name` in the state of a checkpoint, without that name."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}


def hash_codes(codes: tuple[Tensor, ...]) -> Tensor:
    """Return the sha256 of tensors' bytes, uint8 [32]."""
    digest = hashlib.sha256()
    for tensor in codes:
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)
