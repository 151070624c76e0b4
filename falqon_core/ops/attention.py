"""Causal attention for packed and padded microbatches, registered with transformers under the name `falqon`.

query [B, H, T, D], key and value [B, K, T, D] with K dividing H (grouped queries). Packed: B = 1 and `cu_seqlens` [n + 1] marks the
segments; each attends within itself, so samples never see each other. Padded on the right: no mask is needed, because a causal
token never looks right and the outputs of padding are never read. Sliding windows (Mistral, Qwen2) are honoured.

Short segments, up to `SHORT`, go through plain batched GEMMs with the scores of all heads kept for backward (at most SHORT numbers
per token and head); torch's own CPU kernel needs twice the time there (11.9 against 5.5 ms forward and backward at 4 x 9 x 205 x 64 on
two cores). Longer ones, and windows shorter than the segment, go through `scaled_dot_product_attention`.
What is given up: short scores are rounded to the dtype before softmax, like transformers' "eager".
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

from falqon_core.ops.dispatch import operator

NAME = "falqon"
SHORT = 512


@operator
def short_attention_forward(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """-> (output [B*K, R*T, D], probabilities [B*K, R*T, T]) of causal attention; query [B*K, R*T, D], key and value [B*K, T, D]."""
    num_tokens = key.shape[1]
    scores = torch.bmm(query * scaling, key.transpose(1, 2))
    future = torch.full((num_tokens, num_tokens), float("-inf"), dtype=scores.dtype, device=scores.device).triu_(1)
    scores.view(key.shape[0], -1, num_tokens, num_tokens).add_(future)
    probabilities = torch.softmax(scores, -1)
    return torch.bmm(probabilities, value), probabilities


@operator
def short_attention_backward(
    grad_output: Tensor, query: Tensor, key: Tensor, value: Tensor, probabilities: Tensor, scaling: float
) -> tuple[Tensor, Tensor, Tensor]:
    """-> gradients of query, key, value, shaped as in `short_attention_forward`."""
    grad_value = torch.bmm(probabilities.transpose(1, 2), grad_output)
    grad_probabilities = torch.bmm(grad_output, value.transpose(1, 2))
    grad_scores = torch.ops.aten._softmax_backward_data(grad_probabilities, probabilities, -1, probabilities.dtype)
    grad_query = torch.bmm(grad_scores, key).mul_(scaling)
    grad_key = torch.bmm(grad_scores.transpose(1, 2), query).mul_(scaling)
    return grad_query, grad_key, grad_value


class _ShortAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        batch, num_heads, num_tokens, _ = query.shape
        num_groups = batch * key.shape[1]
        q, k, v = (x.reshape(num_groups, -1, x.shape[-1]) for x in (query, key, value))
        output, probabilities = short_attention_forward(q, k, v, scaling)
        ctx.save_for_backward(q, k, v, probabilities)
        ctx.scaling = scaling
        ctx.shapes = query.shape, key.shape, value.shape
        return output.view(batch, num_heads, num_tokens, -1)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, probabilities = ctx.saved_tensors
        grads = short_attention_backward(grad_output.reshape(*q.shape[:2], -1), q, k, v, probabilities, ctx.scaling)
        grad_query, grad_key, grad_value = (grad.view(shape) for grad, shape in zip(grads, ctx.shapes, strict=True))
        return grad_query, grad_key, grad_value, None


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None = None) -> Tensor:
    """Causal attention of one segment, or of B of one padded length: -> [B, H, T, D]. `window`: tokens seen, oneself included."""
    num_tokens = query.shape[2]
    if window is not None and window < num_tokens:
        distance = torch.arange(num_tokens, device=query.device)[:, None] - torch.arange(num_tokens, device=query.device)
        mask = (distance >= 0) & (distance < window)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling, enable_gqa=True)
    if num_tokens <= SHORT:
        return _ShortAttention.apply(query, key, value, scaling)
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)


def falqon_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seqlens: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """What transformers calls. -> ([B, T, H, D], None). `cu_seqlens` (int, [n + 1], on the CPU) comes from the microbatch."""
    assert attention_mask is None, "masks are never built for this attention"
    assert dropout == 0.0, "training runs without dropout"
    if cu_seqlens is None:
        output = causal_attention(query, key, value, scaling, sliding_window)
    else:
        lengths = [end - start for start, end in pairwise(cu_seqlens.tolist())]
        parts = (x.split(lengths, dim=2) for x in (query, key, value))
        output = torch.cat([causal_attention(*qkv, scaling, sliding_window) for qkv in zip(*parts, strict=True)], dim=2)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, falqon_attention)
