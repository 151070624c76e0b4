"""The decoder layer of an FP8 GPU: RMSNorm and SwiGLU quantize their own outputs, so that no kernel
reads a tensor only to quantize it.

    q, k, v, h = normed_qkv(h)         RMSNorm writes the codes that the GEMM with
                                       [W_q; W_k; W_v; ..] reads, q and k are rotated in its
                                       product; backward, the rotation writes the codes that
                                       grad_input reads, and RMSNorm adds the gradient of h
    a = attention(q, k, v)             as in blocks.py, without o
    h + o(a) + mlp = normed_swiglu(a, h)
                                       h + o(a) and its RMSNorm write codes, SwiGLU writes those
                                       that down reads; backward, SwiGLU writes those that
                                       grad_input of gate and up reads, RMSNorm those that
                                       grad_input of o reads

Each line is one autograd function (normed.py).

A layer is fused when it is of a known architecture, both groups, o and down lie on codes for FP8
GEMMs, and the kernels that fuse have proved themselves on the device; all others stay as they
are. Where q and k are normed before they are rotated (Qwen3), `normed_linears` stands in the place
of `normed_qkv`. What is given up: attention's output and the gradient that reaches down are still
read once to be quantized, and the sum that leaves the layer is not part of the next one's norm; a
layer with biases in its MLP is not fused.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from falqon_core.meld.blocks import Attention, SwiGLU
from falqon_core.meld.linear import MeldedLinear, add_biases, trained_tensors
from falqon_core.meld.normed import NormedMatmul, NormedQkv, NormedSwiGLU
from falqon_core.meld.packed_weight import Fp8Weight
from falqon_core.ops.rms_norm import RMSNorm, rms_norm_codes
from falqon_core.ops.rms_norm_backward import rms_norm_backward_codes
from falqon_core.ops.rope_qkv import rotate_qkv_
from falqon_core.ops.rope_qkv_backward import unrotate_qkv_codes
from falqon_core.ops.swiglu_codes import swiglu_codes_backward, swiglu_codes_forward

FUSING_OPERATORS = (
    rms_norm_codes,
    rms_norm_backward_codes,
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
    """hidden_states [B, T, H] -> [B, T, H]; its arguments are those of transformers' decoder
    layers.

    `fuse_decoder_layers` turns a layer into one in place, by its class: its children, their names
    and references to it stay.
    """

    def forward(
        self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **kwargs: Any
    ) -> Tensor:
        """Compute the layer; `position_embeddings` are cosines and sines [B or 1, T, D]."""
        attention = self.self_attn
        group = [attention.q_proj, attention.k_proj, attention.v_proj]
        if hasattr(attention, "q_norm"):
            # The norms of q and k precede their rotation, so they leave the function unrotated.
            *projected, residual = normed_linears(hidden_states, self.input_layernorm, group)
            rotated = attention.rotate(projected, position_embeddings)
        else:
            *rotated, residual = normed_qkv(
                hidden_states, self.input_layernorm, group, position_embeddings
            )
        heads, _ = attention.mix(*rotated, **kwargs)
        return normed_swiglu(
            heads, residual, attention.o_proj, self.post_attention_layernorm, self.mlp
        )


def fuse_decoder_layers(model: nn.Module) -> None:
    """Fuse the decoder layers of known architectures in place; a layer that cannot be fused is left
    alone.
    """
    for layer in model.modules():
        if type(layer).__name__ in DECODER_LAYERS and _fits(layer):
            layer.__class__ = FusedDecoderLayer


def normed_linears(x: Tensor, norm: RMSNorm, group: Sequence[MeldedLinear]) -> list[Tensor]:
    """Return the outputs [.., O_j] of a whole group, melded together in FP8, that reads norm(x),
    and x [.., H] itself, which goes past the norm.
    """
    *outputs, x = NormedMatmul.apply(
        x,
        norm.weight,
        norm.eps,
        group[0].packed,
        group[0].scaling,
        *trained_tensors(group),
    )
    return [*add_biases(outputs, group), x]


def normed_qkv(
    x: Tensor, norm: RMSNorm, group: Sequence[MeldedLinear], rotation: tuple[Tensor, Tensor]
) -> list[Tensor]:
    """Return query and key, rotated, and value: [B, heads, T, D]; and x [B, T, H] itself, which
    goes past the norm.

    `group` is that of q, k and v, melded together in FP8; `rotation` the cosines and sines [B or 1,
    T, D] of the positions.
    """
    *projected, x = NormedQkv.apply(
        x,
        norm.weight,
        norm.eps,
        group[0].packed,
        group[0].scaling,
        _joined_bias(group),
        *rotation,
        *trained_tensors(group),
    )
    head_dim = rotation[0].shape[-1]
    return [*(y.unflatten(-1, (-1, head_dim)).transpose(1, 2) for y in projected), x]


def _joined_bias(group: Sequence[MeldedLinear]) -> Tensor | None:
    # All of q, k and v have a bias, or none has.
    biases = [linear.bias for linear in group if linear.bias is not None]
    return torch.cat(biases) if biases else None


def normed_swiglu(
    heads: Tensor, residual: Tensor, output: MeldedLinear, norm: RMSNorm, mlp: SwiGLU
) -> Tensor:
    """total + mlp(norm(total)) with total = residual + output(heads), heads [.., O], all else [..,
    H]; all is melded in FP8 and the MLP has no biases.
    """
    groups = ([output], [mlp.gate_proj, mlp.up_proj], [mlp.down_proj])
    return NormedSwiGLU.apply(
        heads,
        residual,
        norm.weight,
        norm.eps,
        output.packed,
        output.bias,
        mlp.gate_proj.packed,
        mlp.down_proj.packed,
        output.scaling,
        *(tensor for group in groups for tensor in trained_tensors(group)),
    )


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
        [attention.o_proj],
    )
    if not all(_on_codes(group) for group in groups):
        return False
    device = mlp.down_proj.delta.device
    return all(linear.bias is None for group in groups[1:3] for linear in group) and all(
        operator.fault(device) is None for operator in FUSING_OPERATORS
    )


def _on_codes(group: Sequence[nn.Module]) -> bool:
    """Check that these are the linears of one group, melded for FP8 GEMMs."""
    if not all(isinstance(linear, MeldedLinear) for linear in group):
        return False
    packed = group[0].packed
    return isinstance(packed, Fp8Weight) and packed.fp8 and len(packed.sizes) == len(group)
