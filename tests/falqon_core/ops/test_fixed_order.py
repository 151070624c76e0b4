"""On a CPU, whose attention has a fixed order anyway: when torch is asked for one, and when not."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from falqon_core.ops.attention import in_filled_heads
from falqon_core.ops.fixed_order import in_fixed_order


class Watched(torch.autograd.Function):
    """x -> x; writes down whether torch was asked for a fixed order, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str, order_kept: dict[str, bool]) -> Tensor:
        ctx.note = partial(order_kept.__setitem__, f"{name} backward")
        order_kept[f"{name} forward"] = torch.are_deterministic_algorithms_enabled()
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        assert ctx.saved_tensors, "which computes them again under activation checkpointing"
        ctx.note(torch.are_deterministic_algorithms_enabled())
        return grad, None, None


def attention(x: Tensor, order_kept: dict[str, bool]) -> Tensor:
    return in_fixed_order(lambda: Watched.apply(x, "attention", order_kept))


def test_torch_is_asked_for_an_order_around_attention_alone() -> None:
    order_kept: dict[str, bool] = {}
    before = Watched.apply(torch.ones(3, requires_grad=True), "before", order_kept)
    Watched.apply(attention(before, order_kept), "after", order_kept).sum().backward()
    assert order_kept == {
        f"{part} {way}": part == "attention"
        for part in ("before", "attention", "after")
        for way in ("forward", "backward")
    }
    assert not torch.are_deterministic_algorithms_enabled()


def test_it_is_asked_while_attention_is_computed_again_within_its_own_backward() -> None:
    order_kept: dict[str, bool] = {}
    x = torch.ones(3, requires_grad=True)
    checkpoint(attention, x, order_kept, use_reentrant=False).sum().backward()
    assert order_kept == {"attention forward": True, "attention backward": True}
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("width", [8, 10, 12])
def test_heads_of_any_size_are_attended_in_an_order(width: int) -> None:
    """The order is asked for around the attention, not around a cut of its output."""
    order_kept: dict[str, bool] = {}
    widths = set()

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        widths.add(q.shape[-1])
        output = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)
        return Watched.apply(output, "attention", order_kept)

    torch.manual_seed(0)
    qkv = [torch.randn(2, 3, 5, width, requires_grad=True) for _ in range(3)]
    output = in_filled_heads(attend, *qkv)
    expected = F.scaled_dot_product_attention(*qkv, is_causal=True, scale=0.3)

    assert widths == {-(-width // 8) * 8}
    torch.testing.assert_close(output, expected)
    grad = torch.randn_like(output)
    ours = torch.autograd.grad(output, qkv, grad)
    for actual, other in zip(ours, torch.autograd.grad(expected, qkv, grad), strict=True):
        torch.testing.assert_close(actual, other)
    assert order_kept == {"attention forward": True, "attention backward": True}


def test_an_error_leaves_torch_as_it_was() -> None:
    with pytest.raises(ZeroDivisionError):
        in_fixed_order(lambda: torch.ones(1) * (1 / 0))
    assert not torch.are_deterministic_algorithms_enabled()


def test_it_changes_no_result() -> None:
    results = []
    for attend in (lambda attend: attend(), in_fixed_order):
        generator = torch.Generator().manual_seed(0)
        qkv = [torch.randn(1, 2, 9, 8, generator=generator).requires_grad_() for _ in range(3)]
        output = attend(partial(F.scaled_dot_product_attention, *qkv, is_causal=True))
        results.append([output, *torch.autograd.grad(output.square().sum(), qkv)])
    for ours, expected in zip(results[1], results[0], strict=True):
        assert torch.equal(ours, expected)
