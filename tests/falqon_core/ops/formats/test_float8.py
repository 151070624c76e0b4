import pytest
import torch

from falqon_core.ops.formats.float8 import (
    E4M3,
    E5M2,
    multiply,
    multiply_codes,
    power_of_two_factor,
    quantize_by,
    quantize_stochastically,
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


def test_a_power_of_two_is_the_largest_that_stays_in_the_range() -> None:
    amax = torch.cat([torch.tensor([448.0, 448.00003, 449.0, 224.0, 1e-20]), torch.rand(1000) * 9])
    factor = power_of_two_factor(amax, E4M3)
    assert torch.equal(torch.frexp(factor).mantissa, torch.full_like(factor, 0.5))
    assert (amax * factor <= 448).all()
    assert (amax * factor * 2 > 448).all()
    assert power_of_two_factor(torch.zeros(()), E5M2) == 1


def test_stochastic_rounding_leaves_the_grid_and_is_exact_on_average() -> None:
    codes = torch.arange(256, dtype=torch.int16).to(torch.uint8).view(E5M2)
    grid = codes.float()[codes.float().isfinite()].unique()
    draws = torch.arange(256, dtype=torch.int16)[:, None]
    factor = torch.tensor(2.0**3)
    on_grid = grid / factor
    rounded = quantize_stochastically(
        on_grid.expand(256, -1), factor, draws.expand(-1, len(grid)).contiguous()
    )
    assert torch.equal(rounded.qdata.float() * rounded.scale, on_grid.expand(256, -1))
    between = (grid[1:] * 0.25 + grid[:-1] * 0.75).bfloat16().float()
    rounded = quantize_stochastically(
        between / factor, factor, draws.expand(-1, len(between)).contiguous()
    )
    mean = rounded.qdata.double().mean(0)
    assert ((mean - between).abs() <= (grid[1:] - grid[:-1]) * 2.0**-7).all()


def test_what_is_beyond_the_range_becomes_the_largest() -> None:
    x = torch.tensor([[1e30, -1e30, 60000.0]])
    for random in (0, 255):
        bytes_ = torch.full((1, 3), random, dtype=torch.int16)
        codes, _ = quantize_stochastically(x, torch.tensor(1.0), bytes_)
        assert codes.float().tolist() == [[57344.0, -57344.0, 57344.0]]
    assert quantize_by(x, torch.tensor(1.0), E4M3).qdata.float().tolist() == [
        [448.0, -448.0, 448.0]
    ]
