import pytest
import torch
from torch import Tensor

from falqon_core.ops.quantize import quantize_codes
from falqon_core.ops.scaled_mm import own, rowwise, scaled_mm, unit_scale
from tests.falqon_core.ops.devices import KERNEL_DEVICE, needs_rowwise

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


@pytest.mark.parametrize("gemm", [pytest.param(rowwise, marks=needs_rowwise), unit_scale, own])
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
