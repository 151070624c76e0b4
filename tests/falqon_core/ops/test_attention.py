from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from falqon_core.ops import attention
from falqon_core.ops.attention import causal_attention, falqon_attention


def qkv(
    batch: int, length: int, heads: int = 6, groups: int = 2, width: int = 8
) -> list[torch.Tensor]:
    """Laid out as a model hands them over: [B, T, H, D] seen as [B, H, T, D]."""
    return [
        torch.randn(batch, length, number, width).transpose(1, 2).requires_grad_()
        for number in (heads, groups, groups)
    ]


@pytest.mark.parametrize(
    ("length", "window"), [(1, None), (17, None), (17, 4), (17, 17), (17, 100)]
)
@pytest.mark.parametrize(("short", "block"), [(0, 1), (512, 5), (512, 128)])
def test_output_and_gradients_match_masked_sdpa(
    length: int, window: int | None, short: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "MAX_SHORT_TOKENS", short)
    monkeypatch.setattr(attention, "QUERY_BLOCK", block)
    inputs = qkv(2, length)
    distance = torch.arange(length)[:, None] - torch.arange(length)
    mask = (distance >= 0) & (distance < (window or length))
    query, key, value = inputs
    expected = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=0.3, enable_gqa=True
    )
    output = causal_attention(query, key, value, 0.3, window)
    torch.testing.assert_close(output, expected)
    grad = torch.randn_like(expected)
    for actual, other in zip(
        torch.autograd.grad(output, inputs, grad),
        torch.autograd.grad(expected, inputs, grad),
        strict=True,
    ):
        torch.testing.assert_close(actual, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("length", "window", "block"), [(1, None, 5), (17, None, 5), (17, 4, 5), (17, 4, 128)]
)
def test_capped_scores_match_their_formula(
    length: int, window: int | None, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "QUERY_BLOCK", block)
    inputs = qkv(2, length)
    query, key, value = inputs
    distance = torch.arange(length)[:, None] - torch.arange(length)
    mask = (distance >= 0) & (distance < (window or length))
    scores = query @ key.repeat_interleave(3, 1).transpose(2, 3) * 0.9
    scores = (2.0 * torch.tanh(scores / 2.0)).masked_fill(~mask, float("-inf"))
    expected = torch.softmax(scores, -1) @ value.repeat_interleave(3, 1)

    output = causal_attention(query, key, value, 0.9, window, softcap=2.0)

    torch.testing.assert_close(output, expected)
    grad = torch.randn_like(expected)
    for actual, other in zip(
        torch.autograd.grad(output, inputs, grad),
        torch.autograd.grad(expected, inputs, grad),
        strict=True,
    ):
        torch.testing.assert_close(actual, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [None, 4])
def test_sinks_take_their_share_of_each_head(
    window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sink is the score of a key with value zero, which every query sees."""
    monkeypatch.setattr(attention, "QUERY_BLOCK", 5)
    inputs = qkv(2, 17)
    query, key, value = inputs
    sinks = torch.linspace(-1.0, 2.0, query.shape[1])
    distance = torch.arange(17)[:, None] - torch.arange(17)
    mask = (distance >= 0) & (distance < (window or 17))
    repeats = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(repeats, 1).transpose(2, 3) * 0.9
    exp = scores.masked_fill(~mask, float("-inf")).exp()
    shares = exp / (exp.sum(-1, keepdim=True) + sinks.exp()[:, None, None])
    expected = shares @ value.repeat_interleave(repeats, 1)

    output = causal_attention(query, key, value, 0.9, window, sinks=sinks)

    torch.testing.assert_close(output, expected)
    grad = torch.randn_like(expected)
    for actual, other in zip(
        torch.autograd.grad(output, inputs, grad),
        torch.autograd.grad(expected, inputs, grad),
        strict=True,
    ):
        torch.testing.assert_close(actual, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [None, 4, 100])
@pytest.mark.parametrize("num_queries", [1, 3])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_the_last_queries_of_a_cached_segment_see_what_they_saw_in_it(
    num_queries: int, window: int | None, softcap: float | None
) -> None:
    query, key, value = qkv(2, 11)
    whole = causal_attention(query, key, value, 0.3, window, softcap)
    torch.testing.assert_close(
        causal_attention(query[:, :, -num_queries:], key, value, 0.3, window, softcap),
        whole[:, :, -num_queries:],
    )


def test_packed_segments_never_see_each_other() -> None:
    query, key, value = qkv(1, 12)
    cu_seqlens = torch.tensor([0, 5, 6, 12], dtype=torch.int32)
    packed, _ = falqon_attention(
        nn.Module(), query, key, value, None, scaling=0.5, cu_seqlens=cu_seqlens
    )
    assert packed.shape == (1, 12, 6, 8)
    alone = [
        causal_attention(*(x[:, :, a:b] for x in (query, key, value)), 0.5)
        for a, b in ((0, 5), (5, 6), (6, 12))
    ]
    assert torch.equal(packed, torch.cat(alone, 2).transpose(1, 2))

    with torch.no_grad():
        key[:, :, :5] += 1.0  # the first segment's keys
    changed, _ = falqon_attention(
        nn.Module(), query, key, value, None, scaling=0.5, cu_seqlens=cu_seqlens
    )
    assert torch.equal(changed[:, 5:], packed[:, 5:])
    assert not torch.equal(changed[:, :5], packed[:, :5])


def varlen_as_documented(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """torch.nn.attention.varlen.varlen_attn by its documentation, which runs on GPUs only: query
    [T, H, D], key and value [T, K, D].
    """
    assert torch.equal(cu_seq_q, cu_seq_k)
    assert max_q == max_k == int(cu_seq_q.diff().max())
    assert enable_gqa == (query.shape[1] != key.shape[1])
    left, right = window_size
    position = torch.arange(len(query))
    segment = torch.searchsorted(cu_seq_q[1:].contiguous(), position, right=True)
    distance = position[:, None] - position
    mask = (segment[:, None] == segment) & (distance >= -right) & ((left < 0) | (distance <= left))
    q, k, v = (x.transpose(0, 1)[None] for x in (query, key, value))
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, scale=scale, enable_gqa=enable_gqa
    )[0].transpose(0, 1)


def varlen_of_torch_2_11(
    query: torch.Tensor,
    key: torch.Tensor,
    *others: Any,
    scale: float,
    window_size: tuple[int, int],
) -> torch.Tensor:
    """The same before it had `enable_gqa`: fewer heads of keys need no permission."""
    options = {"window_size": window_size, "enable_gqa": query.shape[1] != key.shape[1]}
    return varlen_as_documented(query, key, *others, scale=scale, **options)


@pytest.mark.parametrize("varlen", [varlen_as_documented, varlen_of_torch_2_11])
@pytest.mark.parametrize("groups", [2, 6])
@pytest.mark.parametrize("window", [None, 1, 4, 100])
def test_the_way_through_variable_length_attention_is_the_same_attention(
    window: int | None,
    groups: int,
    varlen: Callable[..., torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "varlen_attn", varlen)
    query, key, value = qkv(1, 17, groups=groups)
    cu_seqlens = torch.tensor([0, 6, 7, 17], dtype=torch.int32)
    expected, _ = falqon_attention(
        nn.Identity(), query, key, value, None, 0.3, sliding_window=window, cu_seqlens=cu_seqlens
    )
    output = attention.varlen_attention(query, key, value, 0.3, window, cu_seqlens, max_seqlen=10)
    torch.testing.assert_close(output.transpose(1, 2), expected)


def test_only_a_variable_length_attention_that_takes_windows_is_used() -> None:
    def of_torch_2_10(query: int, max_k: int, is_causal: bool) -> None: ...

    needed = ("window_size", "scale")
    assert attention._has_parameters(varlen_as_documented, *needed)
    assert attention._has_parameters(varlen_of_torch_2_11, *needed)
    assert not attention._has_parameters(of_torch_2_10, *needed)
    assert not attention._has_parameters(None, *needed)
