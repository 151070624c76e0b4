"""SwiGLU, y = silu(gate) * up elementwise, and its gradients with respect to both.

Kept for backward: gate and up only; silu(gate) is computed again, which autograd would have kept as a third tensor of that size.
What is given up: one silu more in backward, in exchange for a third of the memory of the widest activations.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from falqon_core.ops.dispatch import operator


@operator
def swiglu_forward(gate: Tensor, up: Tensor) -> Tensor:
    """gate, up [..., I] of one dtype -> [..., I]."""
    return F.silu(gate).mul_(up)


@operator
def swiglu_backward(grad_output: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """-> (grad of gate, grad of up), both [..., I]."""
    grad_gate = torch.ops.aten.silu_backward(grad_output * up, gate)
    return grad_gate, F.silu(gate).mul_(grad_output)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return swiglu_forward(gate, up)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor]:
        return swiglu_backward(grad_output, *ctx.saved_tensors)


class SwiGLU(nn.Module):
    """Stands in for a transformers MLP of gate_proj, up_proj, down_proj with SiLU; same names inside."""

    def __init__(self, gate_proj: nn.Module, up_proj: nn.Module, down_proj: nn.Module) -> None:
        super().__init__()
        self.gate_proj = gate_proj
        self.up_proj = up_proj
        self.down_proj = down_proj

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(_SwiGLU.apply(self.gate_proj(x), self.up_proj(x)))
