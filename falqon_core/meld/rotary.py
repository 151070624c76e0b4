"""Rotary positions of query or key where they are no part of a fused layer: one kernel of
ops/rope_qkv.py forward and backward, in the place of transformers' ten launches, with its rounding.
"""

from typing import Any

import torch
from torch import Tensor

from falqon_core.ops.rope_qkv import rotate_qkv_


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return the heads of x [B, T, heads, D] rotated; cos and sin [B or 1, T, D] of x's dtype."""
    rotated: Tensor = _Rotated.apply(x, cos, sin)
    return rotated


class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        # [B or 1, T, D] -> [B * T or T, D]: one row a token.
        cos, sin = (table.reshape(-1, table.shape[-1]) for table in (cos, sin))
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        # [x', y'] = [x cos - y sin_1, y cos + x sin_2] for halves x, y and sin_1, sin_2: its
        # transpose is the same turn with -sin_2, -sin_1.
        return _turn(grad, cos, -sin.roll(sin.shape[-1] // 2, -1)), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    turned = x.clone(memory_format=torch.contiguous_format)
    # All heads are those of the query; there are no keys and values beside them.
    rows = turned.view(-1, x.shape[-2] * x.shape[-1])
    rotate_qkv_(rows, None, cos, sin, (rows.shape[1], 0, 0))
    return turned
