import pytest
import torch

from falqon_core.ops.formats.float8 import (
    E4M3,
    E5M2,
    multiply,
    multiply_codes,
    quantize_tensor,
)


@pytest.mark.parametrize(("dtype", "bits", "least"), [(E4M3, 3, -6), (E5M2, 2, -14)])
def test_the_largest_magnitude_becomes_the_formats_and_all_are_nearest(
    dtype: torch.dtype, bits: int, least: int
) -> None:
    x = torch.randn(37, 53, generator=torch.Generator().manual_seed(0)) * 3e-4
    qdata, scale = quantize_tensor(x, dtype)
    codes = qdata.double()
    assert codes.abs().max() == torch.finfo(dtype).max
    exact = x.double() * (torch.finfo(dtype).max / x.abs().max().double())
    exponent = exact.abs().log2().floor().clamp(min=least)
    assert ((codes - exact).abs() <= 0.5001 * 2.0 ** (exponent - bits)).all()
    assert scale.item() == pytest.approx(x.abs().max().item() / torch.finfo(dtype).max)


def test_nothing_but_zeros_stays_zeros() -> None:
    qdata, scale = quantize_tensor(torch.zeros(2, 3, dtype=torch.bfloat16), E4M3)
    assert not qdata.float().any()
    assert scale.isfinite()


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
def test_the_gemm_on_codes_multiplies_the_same(dtype: torch.dtype) -> None:
    """The CPU has one with the operands of a GPU's."""
    generator = torch.Generator().manual_seed(0)
    a = quantize_tensor(torch.randn(9, 64, generator=generator), E4M3 if dtype == E4M3 else E5M2)
    b = quantize_tensor(torch.randn(64, 32, generator=generator), E4M3).t()
    torch.testing.assert_close(
        multiply_codes(a, b, fast_accumulation=False),
        multiply(a, b, torch.bfloat16),
        rtol=0.02,
        atol=0.02,
    )
