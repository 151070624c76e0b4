from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from falqon_core.ops.half_gemm import gemm_codes, gemm_codes_triton, lower
from falqon_core.ops.quantize import quantize_codes
from tests.falqon_core.ops.devices import KERNEL_DEVICE

BOTH = pytest.mark.parametrize("half", [True, False])


def operands(x: Tensor, w: Tensor, half: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    codes_x, scale_x = quantize_codes.oracle(x)
    codes_w, scale_w = quantize_codes.oracle(w)
    if half:
        codes_x, scale_x = lower(codes_x, scale_x)
    return codes_x, codes_w, scale_x, scale_w.t().contiguous()


def gaussian(num_tokens: int, num_outputs: int, num_inputs: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(num_tokens)
    return torch.randn(num_tokens, num_inputs, device=KERNEL_DEVICE), torch.randn(num_outputs, num_inputs, device=KERNEL_DEVICE)


def sqnr(found: Tensor, exact: Tensor) -> float:
    return float(-20 * torch.log10((found.float() - exact).norm() / exact.norm()))


@BOTH
@pytest.mark.parametrize("gemm", [gemm_codes.oracle, gemm_codes_triton])
def test_the_product_of_gaussian_matrices_is_close(gemm: Callable[..., Tensor], half: bool) -> None:
    x, w = gaussian(40, 50, 300)
    assert sqnr(gemm(*operands(x, w, half), half=half), x @ w.t()) > 25


@BOTH
@pytest.mark.parametrize(("num_tokens", "num_outputs", "num_inputs"), [(1, 1, 1), (5, 130, 65), (131, 7, 200)])
def test_the_kernel_multiplies_as_the_oracle_does(num_tokens: int, num_outputs: int, num_inputs: int, half: bool) -> None:
    x, w = gaussian(num_tokens, num_outputs, num_inputs)
    given = operands(x, w, half)
    expected = gemm_codes.oracle(*given, half=half).float()
    found = gemm_codes_triton(*given, half=half).float()
    assert sqnr(found, expected) > 48  # bf16's own rounding is 2^-9


@pytest.mark.parametrize("gemm", [gemm_codes.oracle, gemm_codes_triton])
def test_lowered_codes_cannot_overflow(gemm: Callable[..., Tensor]) -> None:
    """The largest sums there are: every product 448 * 448 before lowering."""
    x, w = torch.full((2, 256), 448.0, device=KERNEL_DEVICE), torch.full((3, 256), -448.0, device=KERNEL_DEVICE)
    given = operands(x, w, half=True)
    assert given[0].float().max() == 1.75
    assert gemm(*given, half=True).float().unique() == -(448.0**2) * 256


def test_without_lowering_they_would() -> None:
    high = operands(torch.full((2, 64), 448.0), torch.full((3, 64), 448.0), half=False)
    assert gemm_codes.oracle(*high, half=True).isinf().all()


def test_lowering_keeps_what_is_not_tiny() -> None:
    x, _ = gaussian(64, 1, 512)
    codes, scale = quantize_codes.oracle(x)
    low, low_scale = lower(codes, scale)
    values = codes.float() * scale
    large = values.abs() >= scale * 4  # 2^-6 times 256
    assert torch.equal((low.float() * low_scale)[large], values[large])
    assert sqnr(low.float() * low_scale, x) > sqnr(values, x) - 0.5
