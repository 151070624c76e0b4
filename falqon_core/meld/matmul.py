"""The one autograd function of a melded linear.

Forward is one GEMM: x [T, I] . rows[W; A] [O + r, I]^T = [y | o_a]. For backward only o_a [T, r] is kept, never x: the backbone and A
are frozen, so no weight gradient needs it. Backward: grad_input = grad_output . W and grad of the delta = factor * grad_output^T . o_a,
the exact gradient of folding factor * B . A into W, because A here is its own dequantized FP8 value.

`simulate_fp8` rounds as the FP8 GPU does: x per token on the way forward; on the way back the weight's scale lies on the contraction
axis, so grad_output * scale is rounded per token and multiplied with the codes. grad of the delta stays in the working dtype there too.
What is given up: grad of the delta is a GEMM in the working dtype (bf16), rounded once before it is added up in fp32.
"""

from typing import Any

import torch
from torch import Tensor

from falqon_core.ops.quantize import quantize_rows


class MeldedMatmul(torch.autograd.Function):
    """(x [..., I], delta fp32 [O, r], rows [O + r, I], scale fp32 [O + r, 1]) -> y [..., O], a view with row stride O + r."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, delta: Tensor, rows: Tensor, scale: Tensor, factor: float, simulate_fp8: bool) -> Tensor:
        num_outputs = delta.shape[0]
        x_TI = x.reshape(-1, x.shape[-1])
        if simulate_fp8:
            x_TI, _ = quantize_rows(x_TI)
        both = x_TI @ rows.t()
        # A copy, not a view: a view would keep all of `both` alive.
        ctx.save_for_backward(both[:, num_outputs:].clone(), rows, scale)
        ctx.factor, ctx.simulate_fp8 = factor, simulate_fp8
        return both[:, :num_outputs].view(*x.shape[:-1], num_outputs)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        o_a, rows, scale = ctx.saved_tensors
        num_outputs = grad_output.shape[-1]
        grad_TO = grad_output.reshape(-1, num_outputs)
        grad_x = grad_delta = None
        if ctx.needs_input_grad[1]:
            grad_delta = (grad_TO.t() @ o_a).float().mul_(ctx.factor)
        if ctx.needs_input_grad[0]:
            weight = rows[:num_outputs]
            if ctx.simulate_fp8:
                w_scale = scale[:num_outputs]
                grad_TO, _ = quantize_rows((grad_TO * w_scale.t()).to(grad_TO.dtype))
                weight = (weight / w_scale).to(weight.dtype)
            grad_x = (grad_TO @ weight).view(*grad_output.shape[:-1], -1)
        return grad_x, grad_delta, None, None, None, None
