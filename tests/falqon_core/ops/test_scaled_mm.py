import logging

import pytest
import torch
from torch import Tensor

from falqon_core.ops.quantize import quantize_codes
from falqon_core.ops.scaled_mm import (
    _known_product,
    first_exact,
    own,
    rowwise,
    scaled_mm,
    unit_scale,
)
from tests.falqon_core.ops.devices import KERNEL_DEVICE

DEVICE = torch.device(KERNEL_DEVICE)


def operands(m: int, n: int, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(m + n + k)
    a, b = (
        torch.randn(rows, k, device=DEVICE)
        .mul_(torch.logspace(-4, 4, rows, device=DEVICE)[:, None])
        .bfloat16()
        for rows in (m, n)
    )
    return (*quantize_codes(a), *quantize_codes(b))


@pytest.mark.parametrize(("m", "n", "k"), [(1, 16, 16), (7, 48, 160), (65, 208, 576)])
def test_it_is_the_product_of_the_dequantized_operands(m: int, n: int, k: int) -> None:
    a, a_scale, b, b_scale = operands(m, n, k)
    exact = (a.double() * a_scale) @ (b.double() * b_scale).t()
    torch.testing.assert_close(
        scaled_mm(a, a_scale, b, b_scale).double(), exact, rtol=2**-8, atol=0
    )


@pytest.mark.parametrize("gemm", [rowwise, unit_scale, own])
@pytest.mark.parametrize("fast_accumulation", [False, True])
def test_the_gemms_on_codes_agree_with_the_oracle(gemm: object, fast_accumulation: bool) -> None:
    """torch multiplies codes on the CPU too, so the calls themselves are tested, if not what a GPU
    makes of them.
    """
    assert callable(gemm)
    a, a_scale, b, b_scale = operands(33, 64, 320)
    expected = scaled_mm.oracle(a, a_scale, b, b_scale).float()
    error = (
        gemm(a, a_scale, b, b_scale, fast_accumulation).float() - expected
    ).norm() / expected.norm()
    assert error < 2**-8


@pytest.mark.parametrize(
    ("n", "k", "message"),
    [
        (24, 32, "N and K that are multiples of 16, not 24 and 32"),
        (16, 40, "not 16 and 40"),
        (16, 8, "not 16 and 8"),
    ],
)
def test_sizes_that_a_gpu_refuses_are_refused_everywhere(n: int, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scaled_mm(*operands(4, n, k))


def test_layouts_and_types_that_a_gpu_refuses_are_refused_everywhere() -> None:
    a, a_scale, b, b_scale = operands(16, 16, 32)
    with pytest.raises(ValueError, match="contiguous along K"):
        scaled_mm(a, a_scale, b.t().contiguous().t(), b_scale)
    with pytest.raises(ValueError, match="e4m3"):
        scaled_mm(a, a_scale, b.bfloat16(), b_scale)


class TestProbe:
    """Which GEMM is taken, with GEMMs that fail and that lie."""

    def refusing(self, *_: object) -> Tensor:
        raise RuntimeError("no kernel image is available\nand a long explanation")

    def forgetting_the_scales_of_b(
        self, a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, fast: bool
    ) -> Tensor:
        return rowwise(a, a_scale, b, torch.ones_like(b_scale), fast)

    def sharing_a_scale(
        self, a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, fast: bool
    ) -> Tensor:
        return rowwise(a, a_scale[:1].expand_as(a_scale).contiguous(), b, b_scale, fast)

    def wrong_in_one_product(
        self, a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, fast: bool
    ) -> Tensor:
        a = a.clone()
        a[-1, -1] = a[-1, -1].float().add(1).to(a.dtype)
        return rowwise(a, a_scale, b, b_scale, fast)

    @pytest.mark.parametrize("num_rows", [1, 16, 272])
    def test_a_right_gemm_is_taken_and_the_first_of_them(self, num_rows: int) -> None:
        assert first_exact((rowwise, unit_scale), num_rows, DEVICE, False) is rowwise
        assert first_exact((unit_scale, rowwise), num_rows, DEVICE, True) is unit_scale
        assert first_exact((own,), num_rows, DEVICE, False) is own

    @pytest.mark.parametrize(
        "fault",
        ["refusing", "forgetting_the_scales_of_b", "sharing_a_scale", "wrong_in_one_product"],
    )
    def test_one_that_fails_or_lies_is_passed_over_and_named(
        self, fault: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        bad = getattr(self, fault)
        with caplog.at_level(logging.WARNING):
            assert first_exact((bad, unit_scale), 32, DEVICE, False) is unit_scale
            assert first_exact((bad,), 32, DEVICE, False) is scaled_mm.oracle
        assert fault in caplog.text
        assert "a long explanation" not in caplog.text

    def test_the_known_product_is_exact_in_the_oracle_too(self) -> None:
        *inputs, expected = _known_product(64, DEVICE)
        assert torch.equal(scaled_mm.oracle(*inputs), expected)
