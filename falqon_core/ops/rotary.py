"""Rotary positions of query and key, with a backward that is a rotation as well.

The gradient of a rotation is the rotation by the opposite angle: four passes over the heads, where
autograd through transformers' function takes thirteen. Cosines and sines repeat in the second half
of a head, so the results are those of autograd, bit for bit. What is given up: no gradient for
cosines and sines, which are of positions.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        return query, key

    @staticmethod
    def backward(
        ctx: Any, grad_query: Tensor, grad_key: Tensor
    ) -> tuple[Tensor, Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        grad_query, grad_key = apply_rotary_pos_emb(grad_query, grad_key, cos, -sin)
        return grad_query, grad_key, None, None


def rotate_pair(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Return query and key [B, heads, T, D], rotated; cos and sin [B or 1, T, D], whose halves of D
    are equal.
    """
    rotated: tuple[Tensor, Tensor] = _Rotation.apply(query, key, cos, sin)
    return rotated
