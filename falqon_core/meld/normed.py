"""The autograd functions of a fused decoder layer (fused.py): a norm and the linears that read it.

Each spans what it does because codes have no gradient that could pass between two functions. What a
norm reads passes through the function as well, so that its two gradients meet in a kernel and not
in autograd. They compute what RMSNorm, SwiGLU and `MeldedMatmul` compute one after another, with
the same rounding. For backward they keep x A^T, the input of each norm with 1 / rms, gate and up;
nothing else.
"""

from typing import Any

import torch
from torch import Tensor

from falqon_core.meld.matmul import cat_or_view, grad_deltas, o_a_of, outputs_of
from falqon_core.meld.packed_weight import Fp8Weight
from falqon_core.ops.rms_norm import rms_norm_codes
from falqon_core.ops.rms_norm_backward import rms_norm_backward, rms_norm_backward_codes
from falqon_core.ops.rope_qkv import rotate_qkv_, unrotate_qkv_codes
from falqon_core.ops.swiglu import swiglu_codes_backward, swiglu_codes_forward


class NormedMatmul(torch.autograd.Function):
    """(x [.., H], weight of the norm, eps, packed, scaling, delta fp32 [O_j, r] of each linear) ->
    y_j [.., O_j] of each, and x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        eps: float,
        packed: Fp8Weight,
        scaling: float,
        *deltas: Tensor,
    ) -> tuple[Tensor, ...]:
        qdata, scale, _, inverse_rms = rms_norm_codes(x.reshape(-1, x.shape[-1]), None, weight, eps)
        both = packed.output_of_quantized(qdata, scale)
        # the first layer reads embeddings, which are frozen
        of_norm = (x, weight, inverse_rms) if ctx.needs_input_grad[0] else ()
        ctx.save_for_backward(o_a_of(both, packed).clone(), *of_norm)
        ctx.packed = packed
        ctx.scaling = scaling
        return *outputs_of(both, packed, x.shape[:-1]), x

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        *of_outputs, grad_residual = grad_outputs
        o_a, *of_norm = ctx.saved_tensors
        grads = [grad.reshape(-1, grad.shape[-1]) for grad in of_outputs]
        grad_x = None
        if of_norm:
            grad_normed = ctx.packed.grad_input(cat_or_view(grads))
            grad_x = _grad_of_norm(grad_normed, grad_residual, *of_norm)
        return (
            grad_x,
            None,
            None,
            None,
            None,
            *grad_deltas(grads, o_a, ctx.scaling, ctx.needs_input_grad[5:]),
        )


class NormedQkv(torch.autograd.Function):
    """(x [B, T, H], weight of the norm, eps, packed, scaling, bias [sum O] or None, cosines and
    sines [B or 1, T, D], deltas of q, k and v) -> q, k, v [B, T, O_j], views of one buffer, and x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        eps: float,
        packed: Fp8Weight,
        scaling: float,
        bias: Tensor | None,
        cos: Tensor,
        sin: Tensor,
        *deltas: Tensor,
    ) -> tuple[Tensor, ...]:
        qdata, scale, _, inverse_rms = rms_norm_codes(x.reshape(-1, x.shape[-1]), None, weight, eps)
        both = packed.output_of_quantized(qdata, scale)
        cos, sin = (table.reshape(-1, table.shape[-1]) for table in (cos, sin))
        rotate_qkv_(both, bias, cos, sin, packed.sizes)
        # the first layer reads embeddings, which are frozen
        of_norm = (x, weight, inverse_rms) if ctx.needs_input_grad[0] else ()
        # attention keeps q, k and v, which are most of `both`; o_a is the rest
        ctx.save_for_backward(both, cos, sin, *of_norm)
        ctx.packed = packed
        ctx.scaling = scaling
        return *outputs_of(both, packed, x.shape[:-1]), x

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        both, cos, sin, *of_norm = ctx.saved_tensors
        packed = ctx.packed
        weight_scale = packed.scale[: packed.num_outputs].squeeze(1)
        *grads, grad_residual = grad_outputs
        query, key, value = (grad.reshape(-1, grad.shape[-1]) for grad in grads)
        unrotated, qdata, scale = unrotate_qkv_codes(query, key, value, cos, sin, weight_scale)
        grad_x = None
        if of_norm:
            grad_normed = packed.grad_input_of_quantized(qdata, scale)
            grad_x = _grad_of_norm(grad_normed, grad_residual, *of_norm)
        parts = (*unrotated.split(packed.sizes[:2], 1), value)
        deltas = grad_deltas(parts, o_a_of(both, packed), ctx.scaling, ctx.needs_input_grad[8:])
        return grad_x, *(None,) * 7, *deltas


def _grad_of_norm(
    grad_normed: Tensor, grad_residual: Tensor, x: Tensor, weight: Tensor, inverse_rms: Tensor
) -> Tensor:
    """Return the gradient of x [.., H], which is normed and also goes past the norm."""
    shape = grad_normed.shape
    grad_residual = grad_residual.reshape(shape)
    return rms_norm_backward(
        grad_normed, x.reshape(shape), weight, inverse_rms, grad_residual
    ).view(x.shape)


class NormedSwiGLU(torch.autograd.Function):
    """(heads [.., O], residual [.., H], weight of the norm, eps, rows of o, its bias or None, rows
    of gate and up, rows of down, scaling, deltas of o, gate, up, down) -> [.., H].
    """

    @staticmethod
    def forward(
        ctx: Any,
        heads: Tensor,
        residual: Tensor,
        weight: Tensor,
        eps: float,
        output: Fp8Weight,
        bias: Tensor | None,
        gate_up: Fp8Weight,
        down: Fp8Weight,
        scaling: float,
        *deltas: Tensor,
    ) -> Tensor:
        of_output = output.output(heads.reshape(-1, heads.shape[-1]))
        num_tokens = of_output.shape[:1]
        (x,) = outputs_of(of_output, output, num_tokens)
        if bias is not None:
            x += bias
        qdata, scale, total, inverse_rms = rms_norm_codes(x, residual.reshape(x.shape), weight, eps)
        both = gate_up.output_of_quantized(qdata, scale)
        of_down = down.output_of_quantized(
            *swiglu_codes_forward(*outputs_of(both, gate_up, num_tokens))
        )
        # gate and up are most of `both`, o_a the rest
        o_as = (o_a_of(of_output, output).clone(), o_a_of(of_down, down).clone())
        ctx.save_for_backward(total, weight, inverse_rms, both, *o_as)
        ctx.output = output
        ctx.gate_up = gate_up
        ctx.down = down
        ctx.scaling = scaling
        (y,) = outputs_of(of_down, down, num_tokens)
        return (total + y).view(residual.shape)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        total, weight, inverse_rms, both, o_a_output, o_a_down = ctx.saved_tensors
        output = ctx.output
        gate_up = ctx.gate_up
        down = ctx.down
        needed = ctx.needs_input_grad[9:]
        grad_y = grad_output.reshape(total.shape)
        scales = (gate_up.w_rows(index).scale.squeeze(1) for index in (0, 1))
        *grads, qdata, scale = swiglu_codes_backward(
            down.grad_input(grad_y), *outputs_of(both, gate_up, both.shape[:1]), *scales
        )
        grad_normed = gate_up.grad_input_of_quantized(qdata, scale)
        output_scale = output.scale[: output.num_outputs].squeeze(1)
        grad_total, qdata, scale = rms_norm_backward_codes(
            grad_normed, total, weight, inverse_rms, grad_y, output_scale
        )
        grad_heads = output.grad_input_of_quantized(qdata, scale)
        deltas = (
            grad_deltas([grad_total], o_a_output, ctx.scaling, needed[:1])
            + grad_deltas(grads, o_a_of(both, gate_up), ctx.scaling, needed[1:3])
            + grad_deltas([grad_y], o_a_down, ctx.scaling, needed[3:])
        )
        leading = grad_output.shape[:-1]
        return (
            grad_heads.view(*leading, -1),
            grad_total.view(grad_output.shape),
            *(None,) * 7,
            *deltas,
        )
