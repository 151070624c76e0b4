"""Causal attention for packed and padded microbatches, registered with transformers under the name
`falqon`.

query [B, H, T, D], key and value [B, K, T, D] with K dividing H (grouped queries). Packed: B = 1
and `cu_seqlens` [n + 1] marks the segments; each attends within itself, so samples never see each
other. Padded on the right: no mask is needed, because a causal token never looks right and the
outputs of padding are never read. Sliding windows are honoured.

Short segments, up to `MAX_SHORT_TOKENS`, go through plain batched GEMMs with the scores of all
heads kept for backward (at most MAX_SHORT_TOKENS numbers per token and head); torch's own CPU
kernel needs twice the time there (11.9 against 5.5 ms forward and backward at 4 x 9 x 205 x 64 on
two cores). Longer ones, and windows shorter than the segment, go through
`scaled_dot_product_attention`.

On a GPU all packed segments go through one call of torch's variable-length attention
(FlashAttention), windows included; where this torch lacks it, and for padded batches, each segment
through `scaled_dot_product_attention`. Backward adds in a fixed order there (fixed_order.py).
Capped scores (Gemma 2) and sinks (gpt-oss: a score of each head that stands beside those of the
keys and has no value), which none of these computes, go through blocks of queries, each computed
again in backward. What is given up: short scores on a CPU with bf16 instructions are rounded to
the dtype before softmax, like transformers' "eager"; without them products are fp32, and so are the
scores.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface

from falqon_core.ops.dispatch import operator
from falqon_core.ops.fixed_order import in_fixed_order
from falqon_core.ops.matmul import is_widened, widen

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # Torch before 2.10 has none.
    varlen_attn = None

ATTENTION_NAME = "falqon"
MAX_SHORT_TOKENS = 512
QUERY_BLOCK = 128  # Queries of one GEMM; they skip the keys that none of them may see.
HEAD_MULTIPLE = 8  # Of the head sizes that FlashAttention takes.
MAX_FLASH_HEAD = 256  # The largest of them.


@operator
def short_attention_forward(
    query: Tensor, key: Tensor, value: Tensor, scaling: float
) -> tuple[Tensor, list[Tensor]]:
    """Return (output [G, R, T, D], probabilities of each block of queries [G, R * block, keys
    seen]) of causal attention.

    query [G, R, T, D]: R heads share one of G = B * K groups; key and value [G, T, D].
    """
    # Scores and softmax in fp32 where products are; each operand is widened once, not per product.
    q, k, v = (widen(x) for x in (query, key, value))
    q = q * scaling
    # 0 on and below the diagonal, -inf above it: [QUERY_BLOCK, QUERY_BLOCK] serves every diagonal
    # block.
    future = q.new_full((QUERY_BLOCK, QUERY_BLOCK), float("-inf")).triu_(1)
    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    probabilities = []
    for start, end in _blocks(key.shape[1]):
        # [G, R * block, end]: the R heads of a group share its keys, so they are rows of one GEMM;
        # keys behind the block are never multiplied.
        scores = q[:, :, start:end].flatten(1, 2) @ k[:, :end].transpose(1, 2)
        # Only the last block of columns has keys of the future.
        scores.unflatten(1, (-1, end - start))[..., start:].add_(
            future[: end - start, : end - start]
        )
        p = torch.softmax(scores, -1)
        output[:, :, start:end] = (p @ v[:, :end]).unflatten(1, (-1, end - start))
        probabilities.append(p.to(query.dtype))
    return output, probabilities


@operator
def short_attention_backward(
    grad_output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    probabilities: Sequence[Tensor],
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key, value, shaped as in `short_attention_forward`."""
    grad_output, q, k, v = (widen(x) for x in (grad_output, query, key, value))
    # Scaling is applied to what has a head's size, never to what has one number for each key.
    q = q * scaling
    grad_query = torch.empty_like(q, memory_format=torch.contiguous_format)
    grad_key = torch.zeros_like(k)
    grad_value = torch.zeros_like(v)
    for (start, end), block in zip(_blocks(key.shape[1]), probabilities, strict=True):
        p = widen(block)
        grad = grad_output[:, :, start:end].flatten(1, 2)
        # P^T dO, [G, end, D]; the R heads are summed by the contraction.
        grad_value[:, :end] += p.transpose(1, 2) @ grad
        # P * (dP - sum(dP * P)), [G, R * block, end], in the dtype of the products.
        grad_scores = torch.ops.aten._softmax_backward_data(
            grad @ v[:, :end].transpose(1, 2), p, -1, p.dtype
        )
        grad_query[:, :, start:end] = (grad_scores @ k[:, :end]).unflatten(1, (-1, end - start))
        grad_key[:, :end] += grad_scores.transpose(1, 2) @ q[:, :, start:end].flatten(1, 2)
    grad_query.mul_(scaling)
    grad_query, grad_key, grad_value = (
        x.to(query.dtype) for x in (grad_query, grad_key, grad_value)
    )
    return grad_query, grad_key, grad_value


def _blocks(num_tokens: int) -> list[tuple[int, int]]:
    return [
        (start, min(start + QUERY_BLOCK, num_tokens)) for start in range(0, num_tokens, QUERY_BLOCK)
    ]


class _ShortAttention(torch.autograd.Function):
    """query [B, H, T, D], key and value [B, K, T, D] -> [B, H, T, D]."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        # [B, H, T, D] -> [B * K, H / K, T, D], keys and values [B * K, T, D].
        num_groups = key.shape[0] * key.shape[1]
        q, k, v = (
            query.reshape(num_groups, -1, *query.shape[2:]),
            *(x.reshape(num_groups, *x.shape[2:]) for x in (key, value)),
        )
        output, probabilities = short_attention_forward(q, k, v, scaling)
        ctx.save_for_backward(q, k, v, *probabilities)
        ctx.scaling = scaling
        return output.view(*query.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, *probabilities = ctx.saved_tensors
        grads = short_attention_backward(
            grad_output.reshape(q.shape), q, k, v, probabilities, ctx.scaling
        )
        batch = grad_output.shape[0]
        grad_query, grad_key, grad_value = (
            grad.view(batch, -1, *grad.shape[-2:]) for grad in grads
        )
        return grad_query, grad_key, grad_value, None


def blockwise_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    softcap: float | None,
    window: int | None,
    sinks: Tensor | None,
) -> Tensor:
    """Compute `causal_attention` with scores that are softcap * tanh(scores / softcap), or with the
    sinks [H] of the heads among them.
    """
    if is_widened(query):
        q, k, v = (x.float() for x in (query, key, value))
        return blockwise_attention(q, k, v, scaling, softcap, window, sinks).to(query.dtype)
    num_tokens = query.shape[2]
    num_keys = key.shape[2]
    blocks = []
    for start, end in _blocks(num_tokens):
        # Queries are the last tokens; keys before them come from a cache.
        keys_before = num_keys - num_tokens
        # The first query of the block sees the earliest key that any of them sees.
        first = 0 if window is None else max(0, keys_before + start - window + 1)
        seen = slice(first, keys_before + end)
        blocks.append(
            checkpoint(
                _attend_block,
                query[:, :, start:end],
                key[:, :, seen],
                value[:, :, seen],
                scaling,
                softcap,
                window,
                sinks,
                use_reentrant=False,
                preserve_rng_state=False,
            )
        )
    return torch.cat(blocks, dim=2)


def _attend_block(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    softcap: float | None,
    window: int | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attend with queries that are the last tokens of the keys."""
    num_tokens = query.shape[2]
    hidden = ~_visible(num_tokens, key.shape[2], window, query.device)
    # [B, K, H / K * T, D] times [B, K, D, N]
    grouped = query.unflatten(1, (key.shape[1], -1)).flatten(2, 3)
    scores = grouped @ key.transpose(2, 3)
    if softcap is None:
        scores = scores.mul(scaling)
    else:
        scores = scores.mul(scaling / softcap).tanh().mul(softcap)
    # [B, K, H / K, T, N]
    scores = scores.unflatten(2, (-1, num_tokens)).masked_fill(hidden, float("-inf"))
    if sinks is not None:
        of_heads = sinks.to(scores.dtype).view(1, key.shape[1], -1, 1, 1)
        scores = torch.cat([scores, of_heads.expand(*scores.shape[:-1], 1)], -1)
    # Softmax is fp32 and rounded once, as in transformers' eager attention.
    probabilities = torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
    probabilities = probabilities[..., : key.shape[2]]
    output = probabilities.flatten(2, 3) @ value
    return output.unflatten(2, (-1, num_tokens)).flatten(1, 2)


def _visible(num_tokens: int, num_keys: int, window: int | None, device: torch.device) -> Tensor:
    """Return bool [T, N]: True where one of the last T of N tokens sees a token."""
    distance = torch.arange(num_keys - num_tokens, num_keys, device=device)[:, None] - torch.arange(
        num_keys, device=device
    )
    return (distance >= 0) & (distance < (window or num_keys))


def causal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Compute causal attention of one segment, or of B of one padded length, [B, H, T, D].
    `window`: tokens seen, the token itself included.

    Fewer queries than keys are the last tokens of the segment: a generation whose earlier keys come
    from a cache.
    """
    if softcap is not None or sinks is not None:
        return blockwise_attention(query, key, value, scaling, softcap, window, sinks)
    num_tokens = query.shape[2]
    num_keys = key.shape[2]
    if num_tokens < num_keys or (window is not None and window < num_tokens):
        mask = _visible(num_tokens, num_keys, window, query.device)
        return _sdpa(query, key, value, attn_mask=mask, scale=scaling)
    if num_tokens <= MAX_SHORT_TOKENS and query.device.type == "cpu":
        return _ShortAttention.apply(query, key, value, scaling)
    return _sdpa(query, key, value, is_causal=True, scale=scaling)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    if is_widened(query):
        return _sdpa(query.float(), key.float(), value.float(), **options).to(query.dtype)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **options)

    if query.is_cuda:
        return in_filled_heads(attend, query, key, value)
    return attend(query, key, value)


def in_filled_heads(
    attend: Callable[[Tensor, Tensor, Tensor], Tensor], query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    """Attend in a fixed order with heads that zeros fill up to a size that FlashAttention takes.
    torch fills heads up as well, but then its last operation is a cut, and the order would be asked
    for around that alone; its variable-length attention refuses them.
    """
    width = query.shape[-1]
    missing = -width % HEAD_MULTIPLE
    if missing == 0:
        return in_fixed_order(partial(attend, query, key, value))
    filled = (F.pad(x, (0, missing)) for x in (query, key, value))
    return in_fixed_order(partial(attend, *filled))[..., :width]


@cache
def _has_parameters(function: Callable[..., Any] | None, *names: str) -> bool:
    return function is not None and {*names} <= inspect.signature(function).parameters.keys()


# Earlier versions of torch's variable-length attention lack one or both.
HAS_VARLEN = _has_parameters(varlen_attn, "window_size", "scale")


def _has_varlen_for(query: Tensor) -> bool:
    return HAS_VARLEN and query.device.type != "cpu" and query.shape[-1] <= MAX_FLASH_HEAD


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    window: int | None,
    cu_seqlens: Tensor,
    max_seqlen: int,
) -> Tensor:
    """Compute causal attention within each segment of one packed row: query [1, H, T, D], key and
    value [1, K, T, D] -> [1, H, T, D].

    GPU only. `cu_seqlens` int32 [n + 1] on the GPU, `max_seqlen` the longest segment.
    """
    # torch's variable-length attention takes [T, H, D].
    q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    # Tokens seen to the left and to the right of a token; -1 is all of them.
    window_size = (-1 if window is None else window - 1, 0)
    # Before torch had this parameter, fewer heads of keys than of queries needed no permission
    # (pytorch#179468).
    groups: dict[str, Any] = {}
    if _has_parameters(varlen_attn, "enable_gqa"):
        groups["enable_gqa"] = q.shape[1] != k.shape[1]
    bounds = (cu_seqlens, cu_seqlens, max_seqlen, max_seqlen)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return varlen_attn(q, k, v, *bounds, scale=scaling, window_size=window_size, **groups)

    return in_filled_heads(attend, q, k, v).transpose(0, 1).unsqueeze(0)


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
    max_seqlen: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attend under transformers' signature. Return ([B, T, H, D], None). `cu_seqlens` (int32 [n +
    1]) and `max_seqlen` come from the microbatch, the sinks `s_aux` [H] from the module.
    """
    assert attention_mask is None, "masks are never built for this attention"
    assert dropout == 0.0, "training runs without dropout"
    if cu_seqlens is None:
        output = causal_attention(query, key, value, scaling, sliding_window, softcap, s_aux)
    elif _has_varlen_for(query) and softcap is None and s_aux is None:
        assert max_seqlen is not None, (
            "a packed microbatch brings the length of its longest segment"
        )
        output = varlen_attention(
            query, key, value, scaling, sliding_window, cu_seqlens, max_seqlen
        )
    else:
        # On a CPU, and with large heads, capped scores or sinks, segments are attended one by one.
        lengths = [end - start for start, end in pairwise(cu_seqlens.tolist())]
        parts = (x.split(lengths, dim=2) for x in (query, key, value))
        output = torch.cat(
            [
                causal_attention(q, k, v, scaling, sliding_window, softcap, s_aux)
                for q, k, v in zip(*parts, strict=True)
            ],
            dim=2,
        )
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION_NAME, falqon_attention)
