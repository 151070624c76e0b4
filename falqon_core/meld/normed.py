"""The autograd functions of a fused decoder layer (fused.py): a norm and the linears that read it.

Each spans norm and linears because codes have no gradient that could pass between two functions.
The input of a norm passes through the function as well, so that its two gradients meet in a kernel
and not in autograd. They compute what RMSNorm, SwiGLU and `MeldedMatmul` compute one after another,
with the same rounding. For backward they keep x A^T, the input of each norm with 1 / rms, gate and
up as codes, and the codes that the linears read where A trains; nothing else.

The `trained` of a group are those of `MeldedMatmul`.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from falqon_core.meld.matmul import (
    o_a_of,
    output_and_kept,
    outputs_of,
    tensors_to_keep,
)
from falqon_core.meld.packed_weight import Fp8Weight
from falqon_core.ops.rms_norm import rms_norm_codes
from falqon_core.ops.rms_norm_backward import rms_norm_backward, rms_norm_backward_codes
from falqon_core.ops.rope_qkv import rotate_qkv_
from falqon_core.ops.rope_qkv_backward import unrotate_qkv_codes
from falqon_core.ops.swiglu_codes import swiglu_codes_backward, swiglu_codes_forward


class NormedMatmul(torch.autograd.Function):
    """(x [.., H], weight of the norm, eps, packed, scaling, trained) -> y_j [.., O_j] of each
    linear, and x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        eps: float,
        packed: Fp8Weight,
        scaling: float,
        *trained: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Norm x into codes, e4m3 [T, H], and multiply them with the group's rows."""
        both, kept, of_norm = _normed_product(ctx, x, weight, eps, packed, scaling, trained)
        # A copy of o_a [T, n r]: the view would keep all outputs alive until backward.
        ctx.save_for_backward(o_a_of(both, packed).clone(), *kept, *of_norm)
        return *outputs_of(both, packed, x.shape[:-1]), x

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x and of the trained tensors; x gets that of y and of itself."""
        *of_outputs, grad_residual = grad_outputs
        o_a, *others = ctx.saved_tensors
        kept, of_norm = others[: ctx.num_kept], others[ctx.num_kept :]
        grads = [grad.reshape(-1, grad.shape[-1]) for grad in of_outputs]
        # Those before the trained are x and four that need none.
        needed = ctx.needs_input_grad[:1] + ctx.needs_input_grad[5:]
        grad_normed, of_trained = ctx.packed.gradients(grads, o_a, kept, ctx.scaling, needed)
        grad_x = _grad_of_norm(grad_normed, grad_residual, of_norm)
        return grad_x, *(None,) * 4, *of_trained


class NormedQkv(torch.autograd.Function):
    """(x [B, T, H], weight of the norm, eps, packed, scaling, bias [sum O] or None, cosines and
    sines [B or 1, T, D], trained) -> q, k, v [B, T, O_j], views of one buffer, and x.
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
        *trained: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Norm x into codes, multiply, then add biases and rotate q and k in the product."""
        both, kept, of_norm = _normed_product(ctx, x, weight, eps, packed, scaling, trained)
        # [B or 1, T, D] -> [B * T or T, D]: one row a token, as `both` has.
        cos, sin = (table.reshape(-1, table.shape[-1]) for table in (cos, sin))
        rotate_qkv_(both, bias, cos, sin, packed.sizes)
        # Attention keeps q, k and v, which are most of `both`; o_a is the rest, so nothing is
        # copied.
        ctx.save_for_backward(both, cos, sin, *kept, *of_norm)
        return *outputs_of(both, packed, x.shape[:-1]), x

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Rotate the gradients of q and k back while all three become codes, then multiply."""
        both, cos, sin, *others = ctx.saved_tensors
        kept, of_norm = others[: ctx.num_kept], others[ctx.num_kept :]
        packed = ctx.packed
        *grads, grad_residual = grad_outputs
        query, key, value = (grad.reshape(-1, grad.shape[-1]) for grad in grads)
        # e4m3 [T, sum O] and fp32 [T, 1]; the scales of the weight's rows are folded in before.
        codes = unrotate_qkv_codes(query, key, value, cos, sin, packed.weight_scale)
        grad_normed, of_trained = packed.gradients_of_quantized(
            *codes, o_a_of(both, packed), kept, ctx.scaling, ctx.needs_input_grad[0]
        )
        grad_x = _grad_of_norm(grad_normed, grad_residual, of_norm)
        return grad_x, *(None,) * 7, *of_trained


def _normed_product(
    ctx: Any,
    x: Tensor,
    weight: Tensor,
    eps: float,
    packed: Fp8Weight,
    scaling: float,
    trained: Sequence[Tensor | None],
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return norm(x) times the rows, [T, sum O + n r ..], and the tensors that backward needs for
    A and for the norm; all else that it needs is noted in `ctx`.
    """
    # e4m3 [T, H], fp32 [T, 1]; 1 / rms fp32 [T, 1].
    qdata, scale, _, inverse_rms = rms_norm_codes(x.reshape(-1, x.shape[-1]), None, weight, eps)
    kept = tensors_to_keep((qdata, scale), trained)
    # The first layer reads embeddings, which are frozen: its norm has no backward.
    of_norm = (x, weight, inverse_rms) if ctx.needs_input_grad[0] else ()
    ctx.num_kept = len(kept)
    ctx.packed = packed
    ctx.scaling = scaling
    return packed.output_of_quantized(qdata, scale), kept, of_norm


def _grad_of_norm(
    grad_normed: Tensor | None, grad_residual: Tensor, of_norm: Sequence[Tensor]
) -> Tensor | None:
    """Return the gradient of x [.., H], which is normed and also goes past the norm; None where it
    is not needed.
    """
    if grad_normed is None:
        return None
    x, weight, inverse_rms = of_norm
    shape = grad_normed.shape
    grad_residual = grad_residual.reshape(shape)
    return rms_norm_backward(
        grad_normed, x.reshape(shape), weight, inverse_rms, grad_residual
    ).view(x.shape)


class NormedSwiGLU(torch.autograd.Function):
    """(heads [.., O], residual [.., H], weight of the norm, eps, rows of o, its bias or None, rows
    of gate and up, rows of down, scaling, trained of o, of gate and up, and of down) -> [.., H].
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
        *trained: Tensor | None,
    ) -> Tensor:
        """Compute o, the sum with the residual, its norm, gate and up, SwiGLU and down: codes from
        each kernel to the next GEMM.
        """
        of_output, kept_output = output_and_kept(
            heads.reshape(-1, heads.shape[-1]), output, trained[:2]
        )
        # Leading shape (T,), of all products below.
        num_tokens = of_output.shape[:1]
        # o(heads), bf16 [T, H]
        (x,) = outputs_of(of_output, output, num_tokens)
        if bias is not None:
            x += bias
        # The sum residual + o(heads), bf16 [T, H], comes from the same kernel as its norm's codes.
        qdata, scale, total, inverse_rms = rms_norm_codes(x, residual.reshape(x.shape), weight, eps)
        both = gate_up.output_of_quantized(qdata, scale)
        # silu(gate) * up as e4m3 [T, I] with fp32 [T, 1]; gate and up, e4m3 [T, 2 I] with [T, 2].
        *activated, halves, scales = swiglu_codes_forward(*outputs_of(both, gate_up, num_tokens))
        of_down = down.output_of_quantized(*activated)
        # A copy [T, 4 r]: views would keep all outputs alive until backward.
        products = ((of_output, output), (both, gate_up), (of_down, down))
        o_a = torch.cat([o_a_of(*product) for product in products], 1)
        kept = (
            kept_output,
            tensors_to_keep((qdata, scale), trained[2:6]),
            tensors_to_keep(activated, trained[6:]),
        )
        ctx.save_for_backward(total, weight, inverse_rms, halves, scales, o_a, *chain(*kept))
        ctx.num_kept = [len(part) for part in kept]
        ctx.output = output
        ctx.gate_up = gate_up
        ctx.down = down
        ctx.scaling = scaling
        (y,) = outputs_of(of_down, down, num_tokens)
        return (total + y).view(residual.shape)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of heads [.., O], of the residual [.., H] and of the trained
        tensors.
        """
        total, weight, inverse_rms, halves, scales, o_a, *kept = ctx.saved_tensors
        kept_output, kept_gate_up, kept_down = split(kept, ctx.num_kept)
        output = ctx.output
        gate_up = ctx.gate_up
        down = ctx.down
        scaling = ctx.scaling
        # The nine inputs before `trained` are heads to scaling.
        needed = ctx.needs_input_grad[9:]
        of_groups = o_a.split([len(part.sizes) * part.rank for part in (output, gate_up, down)], 1)
        o_a_output, o_a_gate_up, o_a_down = of_groups
        grad_y = grad_output.reshape(total.shape)
        grad_product, of_down = down.gradients(
            [grad_y], o_a_down, kept_down, scaling, (True, *needed[6:])
        )
        # Gradients of gate and up as e4m3 [T, 2 I] with fp32 [T, 1].
        codes = swiglu_codes_backward(grad_product, halves, scales, gate_up.weight_scale)
        grad_normed, of_gate_up = gate_up.gradients_of_quantized(
            *codes, o_a_gate_up, kept_gate_up, scaling, True
        )
        # The gradient of the sum is that of the residual, bf16 [T, H]; grad_input of o reads the
        # codes.
        grad_total, *codes_of_total = rms_norm_backward_codes(
            grad_normed, total, weight, inverse_rms, grad_y, output.weight_scale
        )
        grad_heads, of_output = output.gradients_of_quantized(
            *codes_of_total, o_a_output, kept_output, scaling, True
        )
        of_trained = (*of_output, *of_gate_up, *of_down)
        leading = grad_output.shape[:-1]
        return (
            grad_heads.view(*leading, -1),
            grad_total.view(grad_output.shape),
            *(None,) * 7,
            *of_trained,
        )


def split(tensors: Sequence[Tensor], sizes: Sequence[int]) -> Iterator[Sequence[Tensor]]:
    """Yield consecutive parts of `tensors`, of the given sizes."""
    start = 0
    for size in sizes:
        yield tensors[start : start + size]
        start += size
