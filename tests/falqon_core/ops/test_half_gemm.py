from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from falqon_core.ops.half_gemm import gemm_codes, gemm_codes_triton, lower
from falqon_core.ops.quantize import quantize_codes
from tests.falqon_core.ops.devices import KERNEL_DEVICE

BOTH = pytest.mark.parametrize("half", [True, False])


def operands(x: Tensor, w: Tensor, half: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    qdata_x, scale_x = quantize_codes.oracle(x)
    qdata_w, scale_w = quantize_codes.oracle(w)
    if half:
        qdata_x, scale_x = lower(qdata_x, scale_x)
    return qdata_x, qdata_w, scale_x, scale_w.t().contiguous()


def gaussian(num_tokens: int, num_outputs: int, num_inputs: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(num_tokens)
    return torch.randn(num_tokens, num_inputs, device=KERNEL_DEVICE), torch.randn(
        num_outputs, num_inputs, device=KERNEL_DEVICE
    )


def sqnr(result: Tensor, exact: Tensor) -> float:
    return float(-20 * torch.log10((result.float() - exact).norm() / exact.norm()))


@BOTH
@pytest.mark.parametrize("gemm", [gemm_codes.oracle, gemm_codes_triton])
def test_the_product_of_gaussian_matrices_is_close(gemm: Callable[..., Tensor], half: bool) -> None:
    x, w = gaussian(40, 50, 300)
    assert sqnr(gemm(*operands(x, w, half), half=half), x @ w.t()) > 25


@BOTH
@pytest.mark.parametrize(
    ("num_tokens", "num_outputs", "num_inputs"), [(1, 1, 1), (5, 130, 65), (131, 7, 200)]
)
def test_the_kernel_multiplies_as_the_oracle_does(
    num_tokens: int, num_outputs: int, num_inputs: int, half: bool
) -> None:
    x, w = gaussian(num_tokens, num_outputs, num_inputs)
    arguments = operands(x, w, half)
    expected = gemm_codes.oracle(*arguments, half=half).float()
    result = gemm_codes_triton(*arguments, half=half).float()
    assert sqnr(result, expected) > 48  # bf16's own rounding is 2^-9


@pytest.mark.parametrize("gemm", [gemm_codes.oracle, gemm_codes_triton])
def test_lowered_codes_cannot_overflow(gemm: Callable[..., Tensor]) -> None:
    """The largest sums there are: every product 448 * 448 before lowering."""
    x = torch.full((2, 256), 448.0, device=KERNEL_DEVICE)
    w = torch.full((3, 256), -448.0, device=KERNEL_DEVICE)
    arguments = operands(x, w, half=True)
    assert arguments[0].float().max() == 1.75
    assert gemm(*arguments, half=True).float().unique() == -(448.0**2) * 256


def test_without_lowering_they_would() -> None:
    high = operands(torch.full((2, 64), 448.0), torch.full((3, 64), 448.0), half=False)
    assert gemm_codes.oracle(*high, half=True).isinf().all()


def test_lowering_keeps_what_is_not_tiny() -> None:
    x, _ = gaussian(64, 1, 512)
    qdata, scale = quantize_codes.oracle(x)
    low, low_scale = lower(qdata, scale)
    values = qdata.float() * scale
    large = values.abs() >= scale * 4  # 2^-6 times 256
    assert torch.equal((low.float() * low_scale)[large], values[large])
    assert sqnr(low.float() * low_scale, x) > sqnr(values, x) - 0.5
