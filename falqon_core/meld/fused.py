"""The decoder layer of an FP8 GPU: RMSNorm and SwiGLU quantize what they make, so that nobody reads
it only to quantize it.

    q, k, v = normed_qkv(h)            RMSNorm writes the codes that the GEMM with
                                       [W_q; W_k; W_v; ..] reads, q and k are rotated in its
                                       product; backward, the rotation writes the codes that
                                       grad_input reads
    a       = attention(q, k, v)       as in blocks.py
    h + a + mlp = normed_swiglu(a, h)  h + a and its RMSNorm write codes, SwiGLU writes those that
                                       down reads; backward, SwiGLU writes those that grad_input of
                                       gate and up reads

Each line is one autograd function, because codes have no gradient that could pass between two. They
compute what RMSNorm, SwiGLU and `MeldedMatmul` compute one after another, with the same rounding.
For backward they keep x A^T, the input of each norm with 1 / rms, gate and up; nothing else.

A layer is fused when it is of a known architecture, both groups and down lie on codes for FP8
GEMMs, and the kernels that fuse have proved themselves on the device; all others stay as they
are. Where q and k are normed before they are rotated (Qwen3), `normed_linears` stands in the place
of `normed_qkv`. What is given up: attention's output and the gradients that reach o and down are
still read once to be quantized, and the sum that leaves the layer is not part of the next one's
norm; a layer with biases in its MLP is not fused.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from falqon_core.meld.blocks import Attention, SwiGLU
from falqon_core.meld.linear import MeldedLinear, add_biases
from falqon_core.meld.matmul import cat_or_view, grad_deltas, o_a_of, outputs_of
from falqon_core.meld.packed_weight import Fp8Weight
from falqon_core.ops.rms_norm import RMSNorm, rms_norm_backward, rms_norm_codes
from falqon_core.ops.rope_qkv import rotate_qkv_, unrotate_qkv_codes
from falqon_core.ops.swiglu import swiglu_codes_backward, swiglu_codes_forward

FUSING = (
    rms_norm_codes,
    rotate_qkv_,
    unrotate_qkv_codes,
    swiglu_codes_forward,
    swiglu_codes_backward,
)
DECODER_LAYERS = {
    "LlamaDecoderLayer",
    "MistralDecoderLayer",
    "Qwen2DecoderLayer",
    "Qwen3DecoderLayer",
}


class FusedDecoderLayer(nn.Module):
    """hidden_states [B, T, H] -> [B, T, H]; takes what transformers' decoder layers take.

    `fuse_decoder_layers` makes one of a layer in place, by its class: its children, their names and
    whoever holds it stay.
    """

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        attended = self._attend(hidden_states, **kwargs)
        return normed_swiglu(attended, hidden_states, self.post_attention_layernorm, self.mlp)

    def _attend(
        self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **kwargs: Any
    ) -> Tensor:
        attention = self.self_attn
        group = [attention.q_proj, attention.k_proj, attention.v_proj]
        if hasattr(attention, "q_norm"):
            projected = normed_linears(hidden_states, self.input_layernorm, group)
            attended, _ = attention.attend(projected, position_embeddings, **kwargs)
        else:
            rotated = normed_qkv(hidden_states, self.input_layernorm, group, position_embeddings)
            attended, _ = attention.attend_rotated(*rotated, **kwargs)
        return attended


def fuse_decoder_layers(model: nn.Module) -> None:
    """Fuse them in place; a layer that cannot be fused is left alone."""
    for layer in model.modules():
        if type(layer).__name__ in DECODER_LAYERS and _fits(layer):
            layer.__class__ = FusedDecoderLayer


def normed_linears(x: Tensor, norm: RMSNorm, group: Sequence[MeldedLinear]) -> list[Tensor]:
    """Return the outputs [.., O_j] of a whole group, melded together in FP8, that reads norm(x); x
    [.., H].
    """
    outputs = NormedMatmul.apply(
        x,
        norm.weight,
        norm.eps,
        group[0].packed,
        group[0].scaling,
        *(layer.delta for layer in group),
    )
    return add_biases(outputs, group)


def normed_qkv(
    x: Tensor, norm: RMSNorm, group: Sequence[MeldedLinear], rotation: tuple[Tensor, Tensor]
) -> list[Tensor]:
    """Return query and key, rotated, and value: [B, heads, T, D]; x [B, T, H].

    `group` is that of q, k and v, melded together in FP8; `rotation` the cosines and sines [B or 1,
    T, D] of the positions.
    """
    biases = [linear.bias for linear in group if linear.bias is not None]
    projected = NormedQkv.apply(
        x,
        norm.weight,
        norm.eps,
        group[0].packed,
        group[0].scaling,
        torch.cat(biases) if biases else None,
        *rotation,
        *(layer.delta for layer in group),
    )
    head_dim = rotation[0].shape[-1]
    return [y.unflatten(-1, (-1, head_dim)).transpose(1, 2) for y in projected]


def normed_swiglu(x: Tensor, residual: Tensor, norm: RMSNorm, mlp: SwiGLU) -> Tensor:
    """total + mlp(norm(total)) with total = x + residual, all [.., H]; the MLP is melded in FP8 and
    has no biases.
    """
    group = (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    deltas = (layer.delta for layer in group)
    return NormedSwiGLU.apply(
        x,
        residual,
        norm.weight,
        norm.eps,
        mlp.gate_proj.packed,
        mlp.down_proj.packed,
        mlp.down_proj.scaling,
        *deltas,
    )


class NormedMatmul(torch.autograd.Function):
    """(x [.., H], weight of the norm, eps, packed, scaling, delta fp32 [O_j, r] of each linear) ->
    y_j [.., O_j] of each.
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
        ctx.save_for_backward(o_a_of(both, packed), *of_norm)
        ctx.packed = packed
        ctx.scaling = scaling
        return outputs_of(both, packed, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        o_a, *of_norm = ctx.saved_tensors
        grads = [grad.reshape(-1, grad.shape[-1]) for grad in grad_outputs]
        grad_x = None
        if of_norm:
            x, weight, inverse_rms = of_norm
            grad_normed = ctx.packed.grad_input(cat_or_view(grads))
            grad_x = rms_norm_backward(
                grad_normed, x.reshape(grad_normed.shape), weight, inverse_rms
            ).view(x.shape)
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
    sines [B or 1, T, D], deltas of q, k and v) -> q, k, v [B, T, O_j], views of one buffer.
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
        return outputs_of(both, packed, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        both, cos, sin, *of_norm = ctx.saved_tensors
        packed = ctx.packed
        weight_scale = packed.scale[: packed.num_outputs].squeeze(1)
        query, key, value = (grad.reshape(-1, grad.shape[-1]) for grad in grad_outputs)
        grads, qdata, scale = unrotate_qkv_codes(query, key, value, cos, sin, weight_scale)
        grad_x = None
        if of_norm:
            x, weight, inverse_rms = of_norm
            grad_normed = packed.grad_input_of_quantized(qdata, scale)
            grad_x = rms_norm_backward(
                grad_normed, x.reshape(grad_normed.shape), weight, inverse_rms
            ).view(x.shape)
        parts = grads.split(packed.sizes, 1)
        deltas = grad_deltas(parts, o_a_of(both, packed), ctx.scaling, ctx.needs_input_grad[8:])
        return grad_x, *(None,) * 7, *deltas


class NormedSwiGLU(torch.autograd.Function):
    """(x, residual [.., H], weight of the norm, eps, rows of gate and up, rows of down, scaling,
    deltas of gate, up, down) -> [.., H].
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor,
        weight: Tensor,
        eps: float,
        gate_up: Fp8Weight,
        down: Fp8Weight,
        scaling: float,
        *deltas: Tensor,
    ) -> Tensor:
        num_columns = x.shape[-1]
        qdata, scale, total, inverse_rms = rms_norm_codes(
            x.reshape(-1, num_columns), residual.reshape(-1, num_columns), weight, eps
        )
        both = gate_up.output_of_quantized(qdata, scale)
        of_down = down.output_of_quantized(
            *swiglu_codes_forward(*outputs_of(both, gate_up, both.shape[:1]))
        )
        # gate and up are most of `both`, o_a the rest
        ctx.save_for_backward(total, weight, inverse_rms, both, o_a_of(of_down, down))
        ctx.gate_up = gate_up
        ctx.down = down
        ctx.scaling = scaling
        (y,) = outputs_of(of_down, down, both.shape[:1])
        return (total + y).view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        total, weight, inverse_rms, both, o_a_down = ctx.saved_tensors
        gate_up = ctx.gate_up
        down = ctx.down
        needed = ctx.needs_input_grad[7:]
        grad_y = grad_output.reshape(total.shape)
        scales = (gate_up.w_rows(index).scale.squeeze(1) for index in (0, 1))
        *grads, qdata, scale = swiglu_codes_backward(
            down.grad_input(grad_y), *outputs_of(both, gate_up, both.shape[:1]), *scales
        )
        grad_normed = gate_up.grad_input_of_quantized(qdata, scale)
        grad_total = (
            rms_norm_backward(grad_normed, total, weight, inverse_rms)
            .add_(grad_y)
            .view(grad_output.shape)
        )
        deltas = grad_deltas(grads, o_a_of(both, gate_up), ctx.scaling, needed[:2]) + grad_deltas(
            [grad_y], o_a_down, ctx.scaling, needed[2:]
        )
        return grad_total, grad_total, None, None, None, None, None, *deltas


def _fits(layer: nn.Module) -> bool:
    attention = layer.self_attn
    mlp = layer.mlp
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    if not (
        isinstance(attention, Attention)
        and isinstance(mlp, SwiGLU)
        and all(isinstance(norm, RMSNorm) for norm in norms)
    ):
        return False
    groups = (
        [attention.q_proj, attention.k_proj, attention.v_proj],
        [mlp.gate_proj, mlp.up_proj],
        [mlp.down_proj],
    )
    if not all(_on_codes(group) for group in groups):
        return False
    device = mlp.down_proj.delta.device
    return all(linear.bias is None for group in groups[1:] for linear in group) and all(
        operator.fault(device) is None for operator in FUSING
    )


def _on_codes(group: Sequence[nn.Module]) -> bool:
    """Return whether these are the linears of one group, melded for FP8 GEMMs."""
    if not all(isinstance(linear, MeldedLinear) for linear in group):
        return False
    packed = group[0].packed
    return isinstance(packed, Fp8Weight) and packed.fp8 and len(packed.sizes) == len(group)
