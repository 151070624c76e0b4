from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from falqon_core.meld.init import orthonormal
from falqon_core.ops import refresh
from falqon_core.ops.offset import add_offset_
from falqon_core.ops.quantize import quantize_codes, quantize_int8, quantize_rows, row_blocks
from tests.falqon_core.ops.devices import KERNEL_DEVICE, codes_apart, equal_codes


@pytest.mark.parametrize(
    ("num_outputs", "num_inputs", "rank"), [(5, 7, 2), (192, 576, 64), (33, 40, 40)]
)
def test_rows_are_the_quantized_sum(
    num_outputs: int, num_inputs: int, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # several blocks, the last one short
    monkeypatch.setattr(refresh, "BLOCK_ELEMENTS", 4 * num_inputs + 3)
    base = torch.randn(num_outputs, num_inputs)
    a = torch.randn(rank, num_inputs)
    delta = torch.randn(num_outputs, rank) * 0.1
    rows = torch.empty_like(base)
    scale = torch.empty(num_outputs, 1)
    original = base.clone()

    refresh.refresh_rows(rows, scale, base, None, delta, a, 0.5)

    assert torch.equal(base, original)
    expected, expected_scale = quantize_rows(base + 0.5 * delta @ a)
    assert torch.equal(scale, expected_scale)
    # another order of additions may move a value over a tie
    assert (rows == expected).float().mean() > 0.999


def test_without_a_delta_the_rows_are_those_of_the_base_off_its_ties() -> None:
    base = torch.randn(100, 64).bfloat16()
    rows = torch.empty_like(base)
    scale = torch.empty(100, 1)
    a = torch.randn(4, 64).bfloat16()
    refresh.refresh_rows(rows, scale, base, None, torch.zeros(100, 4), a, 1.0)
    assert torch.equal(rows.float(), quantize_rows(add_offset_(base.float(), 0))[0])


def refresh_arguments(
    num_outputs: int, num_inputs: int, rank: int, int8: bool = False
) -> tuple[Any, ...]:
    torch.manual_seed(num_outputs)
    base = torch.randn(num_outputs, num_inputs, device=KERNEL_DEVICE).bfloat16()
    delta = torch.randn(num_outputs, rank, device=KERNEL_DEVICE) * 0.2
    a = quantize_rows(torch.randn(rank, num_inputs, device=KERNEL_DEVICE).bfloat16())[0]
    qdata, scale = quantize_codes.oracle(add_offset_(base.float(), 0))
    return qdata, scale, *(quantize_int8(base) if int8 else (base, None)), delta, a


@pytest.mark.parametrize(
    ("num_outputs", "num_inputs", "rank"), [(1, 1, 1), (33, 130, 5), (70, 257, 16), (40, 64, 70)]
)
@pytest.mark.parametrize("int8", [False, True])
def test_the_kernel_refreshes_as_the_oracle_does(
    num_outputs: int, num_inputs: int, rank: int, int8: bool
) -> None:
    qdata, scale, *base, delta, a = refresh_arguments(num_outputs, num_inputs, rank, int8)
    expected = qdata.clone()
    expected_scale = scale.clone()
    expected_changed = refresh.refresh_codes.oracle(expected, expected_scale, *base, delta, a, 0.7)
    before, before_scale = qdata.clone(), scale.clone()
    changed = refresh.refresh_codes_triton(qdata, scale, *base, delta, a, 0.7)
    assert torch.equal(scale, expected_scale)
    apart = codes_apart(qdata, expected)
    assert apart.max() <= 1
    # another order of additions may move a value over a tie
    assert (apart > 0).float().mean() < 1e-3
    is_moved = scale != before_scale
    assert changed == (is_moved | (qdata.float() != before.float())).sum()
    assert abs(changed - expected_changed) <= (apart > 0).sum()


def test_without_a_delta_the_kernel_changes_nothing() -> None:
    qdata, scale, base, _, delta, a = refresh_arguments(34, 40, 4)
    original = qdata.clone()
    kept_scale = scale.clone()
    assert (
        refresh.refresh_codes_triton(qdata, scale, base, None, torch.zeros_like(delta), a, 1.0) == 0
    )
    assert equal_codes(qdata, original)
    assert torch.equal(scale, kept_scale)


STEP = 1e-6


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize(
    "refresh_codes", [refresh.refresh_codes.oracle, refresh.refresh_codes_triton]
)
def test_a_step_at_a_tiny_rate_changes_next_to_no_code(
    refresh_codes: Callable[..., torch.Tensor], int8: bool
) -> None:
    """One bf16 weight in 16 lies on a tie: 3 % of all codes would change, at any rate."""
    torch.manual_seed(1)
    weight = (torch.randn(64, 576, device=KERNEL_DEVICE) * 0.1).bfloat16()
    base = quantize_int8(weight) if int8 else (weight, None)
    a = quantize_rows(orthonormal("", 576, 32, 0).bfloat16())[0].to(KERNEL_DEVICE)
    delta = torch.zeros(64, 32, device=KERNEL_DEVICE)
    rows = quantize_codes.oracle(weight)
    refresh_codes(*rows, *base, delta, a, 1.0)

    for sign in (1, -1):
        delta.fill_(sign * STEP)
        assert refresh_codes(*rows, *base, delta, a, 1.0) < weight.numel() / 1000


def test_the_oracle_gives_the_same_in_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The product is exact, so that another shape of it cannot show."""
    *weight, base, _, delta, a = refresh_arguments(33, 130, 5)
    delta = (delta * 256).round() / 256
    a = a.mul(8).round()
    base = base.mul(64).round()
    parts = [x.clone() for x in weight]
    changed = refresh.refresh_codes.oracle(*weight, base, None, delta, a, 0.5)
    monkeypatch.setattr(refresh, "row_blocks", partial(row_blocks, elements=4 * 130))
    assert refresh.refresh_codes.oracle(*parts, base, None, delta, a, 0.5) == changed > 0
    for ours, expected in zip(parts, weight, strict=True):
        assert torch.equal(ours.float(), expected.float())
