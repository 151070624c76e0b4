from collections.abc import Callable

import pytest
import torch

from falqon_core.ops.kernels import MAX_BLOCK
from falqon_core.ops.quantize import (
    codes_of,
    power_of_two_scale,
    quantize_codes,
    quantize_codes_triton,
    quantize_int8,
    quantize_rows,
    round_rows,
    round_rows_triton,
    round_to_grid_,
)
from tests.falqon_core.ops.devices import KERNEL_DEVICE, equal_codes

ALL_CODES = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
FINITE = ALL_CODES[ALL_CODES.float().isfinite()]


@pytest.mark.parametrize("scale", [1.0, 2.0**-20, 2.0**7])
def test_every_finite_code_stays_where_it_is(scale: float) -> None:
    values = FINITE.float() * scale
    rounded = round_to_grid_(values.clone()[None], torch.tensor([[scale]]))
    assert torch.equal(rounded[0], values)
    expected = FINITE.view(torch.uint8).clone()
    expected[expected == 0x80] = 0  # minus zero is the one code that is never written
    assert torch.equal(codes_of(rounded[0], torch.tensor(scale)).view(torch.uint8), expected)
    assert torch.equal(values.bfloat16().float(), values)  # bf16 holds the grid exactly


def test_rounding_agrees_with_the_cast_on_ties_between_and_among_subnormals() -> None:
    grid = FINITE.float().unique()  # sorted
    middle = (grid[1:] + grid[:-1]) / 2  # ties
    values = torch.cat(
        [
            middle,
            middle.nextafter(grid[1:]),
            middle.nextafter(grid[:-1]),
            torch.randn(10_000) * 50,
            torch.randn(10_000) / 100,
        ]
    )
    values = values.clamp(-448, 448)
    ours = round_to_grid_(values.clone()[None], torch.ones(1, 1))[0]
    assert torch.equal(ours, values.to(torch.float8_e4m3fn).float())


def test_the_scale_is_the_smallest_power_of_two_that_does_not_saturate() -> None:
    amax = torch.cat([torch.tensor([448.0, 448.00003, 224.0, 1e-3, 3e38]), torch.rand(1000) * 10])
    scale = power_of_two_scale(amax)
    assert torch.equal(torch.frexp(scale).mantissa, torch.full_like(scale, 0.5))
    assert (amax / scale <= 448).all()
    assert (amax / (scale / 2) > 448).all()
    assert power_of_two_scale(torch.zeros(1)).isfinite().all()
    assert power_of_two_scale(torch.full((1,), 1e-44)) > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (37, 123), (64, 576)])
def test_rows_are_codes_times_scale_and_close(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = torch.randn(shape).mul_(torch.logspace(-3, 3, shape[0])[:, None]).to(dtype)
    original = x.clone()
    values, scale = quantize_rows(x)
    assert torch.equal(x, original)
    assert torch.equal((codes_of(values, scale).float() * scale).to(dtype), values)
    noise = (values.float() - x.float()).norm() / x.float().norm()
    # 25 dB over many values; a single one may be half a code off
    assert noise <= (10 ** (-25 / 20) if x.numel() > 1000 else 2**-4)


def test_a_row_of_zeros_stays_zero() -> None:
    values, scale = quantize_rows(torch.zeros(2, 8))
    assert values.eq(0).all()
    assert scale.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("rows", "columns"), [(0, 3), (1, 1), (3, 7), (5, 257), (2, MAX_BLOCK + 1)]
)
@pytest.mark.parametrize("scaled", [False, True])
def test_the_kernel_writes_the_codes_and_scales_of_the_oracle(
    rows: int, columns: int, scaled: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(rows * columns)
    x = (
        torch.randn(rows, columns, device=KERNEL_DEVICE)
        .mul_(torch.logspace(-12, 4, columns, device=KERNEL_DEVICE))
        .to(dtype)
    )
    x[:1] = 0
    column_scale = (
        torch.exp2(torch.randint(-9, 3, (columns,), device=KERNEL_DEVICE).float())
        if scaled
        else None
    )
    qdata, scale = quantize_codes_triton(x, column_scale)
    expected_qdata, expected_scale = quantize_codes.oracle(x, column_scale)
    assert torch.equal(scale, expected_scale)
    assert equal_codes(qdata, expected_qdata)


def test_the_kernel_rounds_the_scaled_value_as_the_oracle_does() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 300, device=KERNEL_DEVICE, dtype=torch.bfloat16)
    column_scale = torch.rand(300, device=KERNEL_DEVICE)
    assert equal_codes(
        quantize_codes_triton(x, column_scale)[0], quantize_codes.oracle(x, column_scale)[0]
    )


def test_the_kernel_reads_rows_at_any_stride() -> None:
    x = torch.randn(6, 40, device=KERNEL_DEVICE, dtype=torch.bfloat16)[:, :33]
    assert equal_codes(quantize_codes_triton(x)[0], quantize_codes.oracle(x)[0])
    assert equal_codes(quantize_codes_triton(x.t())[0], quantize_codes.oracle(x.t())[0])


@pytest.mark.parametrize(
    ("rows", "columns"), [(0, 3), (1, 1), (5, 257), (64, 40), (2, MAX_BLOCK + 1)]
)
def test_the_kernel_rounds_rows_in_place_as_the_oracle_does(rows: int, columns: int) -> None:
    torch.manual_seed(columns)
    x = torch.randn(rows, columns, device=KERNEL_DEVICE)
    x *= torch.logspace(-12, 4, columns, device=KERNEL_DEVICE)
    x[:1] = 0

    def rounded(function: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, ...]:
        qdata = torch.full(x.shape, 7.0, device=x.device).to(torch.float8_e4m3fn)
        scale = torch.full((rows, 1), 3.0, device=x.device)
        values = torch.full(x.shape, 5.0, device=x.device, dtype=torch.bfloat16)
        assert function(qdata, scale, values, x) is values
        return qdata, scale, values

    qdata, scale, values = rounded(round_rows_triton)
    expected_qdata, expected_scale, expected = rounded(round_rows.oracle)
    assert equal_codes(qdata, expected_qdata)
    assert torch.equal(scale, expected_scale)
    assert torch.equal(values, expected)
    assert torch.equal(values.float(), qdata.float() * scale)


def test_the_kernel_rounds_rows_of_a_larger_tensor_and_no_others() -> None:
    qdata = torch.zeros(6, 40, device=KERNEL_DEVICE).to(torch.float8_e4m3fn)
    scale = torch.ones(6, 1, device=KERNEL_DEVICE)
    values = torch.zeros(3, 40, device=KERNEL_DEVICE, dtype=torch.bfloat16)
    x = torch.randn(2, 40, device=KERNEL_DEVICE)
    round_rows_triton(qdata[3:5], scale[3:5], values[1:], x)
    expected, expected_scale = quantize_codes.oracle(x)
    assert equal_codes(qdata[3:5], expected)
    assert torch.equal(scale[3:5], expected_scale)
    assert torch.equal(values[1:].float(), expected.float() * expected_scale)
    assert not qdata.float()[[0, 1, 2, 5]].any()
    assert not values[0].any()


def test_eight_bits_are_the_nearest_of_the_row_and_zero_rows_stay() -> None:
    weight = torch.cat([torch.randn(20, 64), torch.zeros(1, 64)]).bfloat16()

    values, scale = quantize_int8(weight)

    assert values.dtype == torch.int8
    assert values[:-1].abs().amax(1).eq(127).all()
    assert values[-1].eq(0).all()
    assert ((values * scale - weight.float()).abs() <= 0.501 * scale).all()
