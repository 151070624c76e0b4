import pytest
import torch
from torch import Tensor

from falqon_core.contract.recipe_options import WeightFormat
from falqon_core.ops.formats.fp6 import FORMATS, dequantize_fp6, quantize_fp6

# bits of exponent and mantissa
BITS: dict[WeightFormat, tuple[int, int]] = {"e3m2": (3, 2), "e2m3": (2, 3)}


def weight_of(num_rows: int, num_columns: int) -> Tensor:
    weight = torch.randn(num_rows, num_columns, generator=torch.Generator().manual_seed(0))
    return weight * torch.logspace(-3, 2, num_rows)[:, None]


def round_trip(weight: Tensor, name: WeightFormat) -> tuple[Tensor, Tensor]:
    """Return the values that are computed with in fp32, and the scale."""
    format = FORMATS[name]
    packed, scale = quantize_fp6(weight, format)
    num_columns = weight.shape[1]
    return dequantize_fp6(packed, scale, format.values, num_columns, torch.float32), scale


@pytest.mark.parametrize("name", FORMATS)
def test_its_values_are_those_of_the_format_and_all_are_values_of_e4m3(name: WeightFormat) -> None:
    exponent_bits, mantissa_bits = BITS[name]
    bias = 2 ** (exponent_bits - 1) - 1
    magnitudes = []
    for exponent in range(2**exponent_bits):
        for mantissa in range(2**mantissa_bits):
            fraction = mantissa / 2**mantissa_bits
            implicit = 1 if exponent else 0
            magnitudes.append((implicit + fraction) * 2.0 ** (max(exponent, 1) - bias))
    values = FORMATS[name].values
    assert values.tolist() == magnitudes + [-magnitude for magnitude in magnitudes]
    assert max(magnitudes) == FORMATS[name].max_value
    assert torch.equal(values.to(torch.float8_e4m3fn).float(), values)


@pytest.mark.parametrize("name", FORMATS)
def test_each_weight_becomes_the_nearest_of_the_64_values(name: WeightFormat) -> None:
    weight = weight_of(32, 203)
    rounded, scale = round_trip(weight, name)
    torch.testing.assert_close(scale[:, 0], weight.abs().amax(1) / FORMATS[name].max_value)
    scaled = weight / scale
    distances = (scaled[..., None] - FORMATS[name].values).abs()
    torch.testing.assert_close((scaled - rounded / scale).abs(), distances.amin(-1))


@pytest.mark.parametrize("name", FORMATS)
def test_a_tie_goes_to_the_even_mantissa_and_each_value_to_itself(name: WeightFormat) -> None:
    values = FORMATS[name].values[:32]
    ties = (values[1:] + values[:-1]) / 2
    even = torch.stack([values[i + i % 2] for i in range(31)])
    # the largest keeps the scale at 1
    weight = torch.cat([values, ties, values[-1:]])
    expected = torch.cat([values, even, values[-1:]])
    rounded, scale = round_trip(torch.stack([weight, -weight]), name)
    assert scale.tolist() == [[1], [1]]
    assert torch.equal(rounded, torch.stack([expected, -expected]))


@pytest.mark.parametrize("name", FORMATS)
def test_it_rounds_as_torchao_does(name: WeightFormat) -> None:
    floatx = pytest.importorskip(
        "torchao.prototype.custom_fp_utils", reason="torchao, the oracle, is not installed"
    )
    weight = weight_of(64, 200)
    rounded, scale = round_trip(weight, name)
    bits = BITS[name]
    codes = floatx._f32_to_floatx_unpacked((weight / scale).contiguous(), *bits)
    assert torch.equal(rounded, floatx._floatx_unpacked_to_f32(codes, *bits) * scale)


@pytest.mark.parametrize("name", FORMATS)
def test_four_codes_take_three_bytes_and_a_row_may_end_anywhere(name: WeightFormat) -> None:
    weight = weight_of(3, 12)
    for num_columns in range(9, 13):
        packed = quantize_fp6(weight[:, :num_columns], FORMATS[name])[0]
        assert (packed.shape, packed.dtype) == ((3, 9), torch.uint8)
        rounded, _ = round_trip(weight[:, :num_columns], name)
        assert rounded.shape == (3, num_columns)


def test_rows_of_zeros_stay_zeros() -> None:
    rounded, _ = round_trip(torch.zeros(2, 8), "e3m2")
    assert torch.equal(rounded, torch.zeros(2, 8))
