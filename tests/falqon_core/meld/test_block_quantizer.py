"""Blocks are those that the readers of each form dequantize: gguf and compressed-tensors."""

import math

import numpy as np
import pytest
import torch
from compressed_tensors.compressors.mxfp4.base import MXFP4PackedCompressor
from compressed_tensors.compressors.nvfp4.base import NVFP4PackedCompressor
from compressed_tensors.quantization import preset_name_to_scheme
from gguf import GGMLQuantizationType, dequantize, quantize
from torch import Tensor

from falqon_core.contract.errors import ConfigError
from falqon_core.importers import mxfp4
from falqon_core.meld.block_quantizer import QUANTIZERS, BlockQuantizer
from tests.support.card_division import CardDivision

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
GRIDS = {
    "nvfp4": torch.cat((-E2M1.flip(0), E2M1[1:])),
    "mxfp4": torch.cat((-E2M1.flip(0), E2M1[1:])),
    "q4_0": torch.arange(-8.0, 8.0),
    "q8_0": torch.arange(-127.0, 128.0),
}
MXFP4_BIAS = 127


def weight(deviation: float = 0.03) -> Tensor:
    values = torch.randn(23, 192, generator=torch.manual_seed(0)) * deviation
    values[2] = 0
    values[3, :32] *= 40  # an outlier block
    return values.bfloat16()


def fitted(name: str) -> BlockQuantizer:
    return QUANTIZERS[name].fitted_to([weight()])


@pytest.mark.parametrize("name", QUANTIZERS)
def test_numbers_are_the_nearest_of_the_grid(name: str) -> None:
    grid = GRIDS[name]
    units = torch.linspace(-1.2, 1.2, 4001) * grid.abs().max()
    rounded = QUANTIZERS[name].round_(units.clone())
    assert torch.isin(rounded, grid).all()
    nearest = (units[:, None] - grid).abs().amin(1)
    torch.testing.assert_close((units - rounded).abs(), nearest, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_codes_and_scales_give_the_values_back_bit_for_bit(name: str) -> None:
    quantizer = fitted(name)
    values, scales = quantizer.quantize(weight())
    assert scales.shape == (23, 192 // quantizer.block)
    assert torch.equal(values.bfloat16().float(), values), "bf16 does not hold them"
    codes = quantizer.codes_of(values.bfloat16(), scales)
    assert codes.dtype == torch.uint8
    assert torch.equal(quantizer.dequantize(codes, scales), values)
    assert torch.equal(quantizer.round_values(values, scales), values)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_scales_are_those_of_a_card_that_multiplies_by_inverses(name: str) -> None:
    values = torch.randn(1024, 192, generator=torch.manual_seed(0)).bfloat16()
    quantizer = QUANTIZERS[name].fitted_to([values])
    expected = quantizer.choose_scales(values)
    with CardDivision():
        assert torch.equal(quantizer.choose_scales(values), expected)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_scale_rounds_no_further_than_one_without_saturation(name: str) -> None:
    quantizer = fitted(name)
    blocks = weight().float().unflatten(1, (-1, quantizer.block))
    largest = blocks.abs().amax(2, keepdim=True) / GRIDS[name].max()
    plain = quantizer.round_scale(largest / quantizer.unit) * quantizer.unit
    errors = quantizer.quantize(weight())[0] - weight().float()
    chosen = errors.unflatten(1, (-1, quantizer.block)).square().sum(2)
    of_plain = (quantizer.round_(blocks / plain) * plain - blocks).square().sum(2)
    # q4_0's own candidates begin with the grid's other end, so that single blocks may differ.
    assert chosen.sum() <= of_plain.sum()
    if name != "q4_0":
        assert (chosen <= of_plain).all()


@pytest.mark.parametrize(("name", "most"), [("nvfp4", 0.10), ("mxfp4", 0.13), ("q4_0", 0.10)])
def test_the_error_is_that_of_four_bits(name: str, most: float) -> None:
    values = torch.randn(64, 512, generator=torch.manual_seed(1))
    error = (QUANTIZERS[name].fitted_to([values]).quantize(values)[0] - values).norm()
    assert 0.05 < error / values.norm() < most


def test_eight_bits_round_less_than_e4m3() -> None:
    values = torch.randn(64, 512, generator=torch.manual_seed(1))
    error = (QUANTIZERS["q8_0"].quantize(values)[0] - values).norm()
    assert error / values.norm() < 0.01


def test_scales_of_q4_0_round_less_than_those_of_llama_cpp() -> None:
    values = torch.randn(64, 512, generator=torch.manual_seed(1))
    block = GGMLQuantizationType.Q4_0
    theirs = torch.from_numpy(dequantize(quantize(values.numpy(), block), block))
    ours = QUANTIZERS["q4_0"].quantize(values)[0]
    assert (ours - values).norm() < 0.97 * (theirs - values).norm()


def llama_blocks(codes: Tensor, scales: Tensor, bits: int) -> np.ndarray:
    """Return llama.cpp's bytes of Q4_0 or Q8_0: an fp16, then the codes of a block of 32."""
    blocks = codes.unflatten(1, (-1, 32))
    if bits == 4:  # Byte j has weights j and j + 16.
        blocks = blocks[:, :, :16] | blocks[:, :, 16:] << 4
    halves = scales.half()
    assert torch.equal(halves.float(), scales)
    return torch.cat((halves[:, :, None].view(torch.uint8), blocks), 2).flatten(1).numpy()


@pytest.mark.parametrize(("name", "bits"), [("q4_0", 4), ("q8_0", 8)])
def test_llama_cpp_reads_the_same_values(name: str, bits: int) -> None:
    quantizer = fitted(name)
    values, scales = quantizer.quantize(weight())
    blocks = llama_blocks(quantizer.codes_of(values, scales), scales, bits)
    read = dequantize(blocks, GGMLQuantizationType[name.upper()])
    np.testing.assert_array_equal(read, values.numpy())


def test_compressed_tensors_reads_the_same_values_of_nvfp4() -> None:
    quantizer = fitted("nvfp4")
    values, scales = quantizer.quantize(weight())
    codes = quantizer.codes_of(values, scales)
    of_block = (scales / quantizer.unit).to(torch.float8_e4m3fn)
    assert torch.equal(of_block.float() * quantizer.unit, scales)
    state = {
        "weight_packed": codes[:, 0::2] | codes[:, 1::2] << 4,
        "weight_scale": of_block,
        "weight_global_scale": torch.tensor([1 / quantizer.unit]),
    }
    scheme = preset_name_to_scheme("NVFP4A16", ["Linear"])
    read = NVFP4PackedCompressor.decompress(state, scheme)["weight"]
    assert torch.equal(read.float(), values)


def test_compressed_tensors_and_gpt_oss_read_the_same_values_of_mxfp4() -> None:
    quantizer = fitted("mxfp4")
    values, scales = quantizer.quantize(weight())
    codes = quantizer.codes_of(values, scales)
    packed = codes[:, 0::2] | codes[:, 1::2] << 4
    exponents = (scales.log2() + MXFP4_BIAS).to(torch.uint8)
    assert torch.equal(mxfp4.decode(packed, exponents, torch.float32), values)
    state = {"weight_packed": packed, "weight_scale": exponents}
    scheme = preset_name_to_scheme("MXFP4A16", ["Linear"])
    read = MXFP4PackedCompressor.decompress(state, scheme)["weight"]
    assert torch.equal(read.float(), values)


@pytest.mark.parametrize("deviation", [1e-4, 1.0, 300.0])
def test_the_unit_keeps_scales_of_nvfp4_within_e4m3(deviation: float) -> None:
    values = weight(deviation)
    quantizer = QUANTIZERS["nvfp4"].fitted_to([values])
    largest = quantizer.choose_scales(values).max() / quantizer.unit
    assert 448 / 4 < largest <= 448
    error = (quantizer.quantize(values)[0] - values.float()).norm()
    assert error < 0.12 * values.float().norm()


@pytest.mark.parametrize("name", QUANTIZERS)
def test_zeros_stay_zeros(name: str) -> None:
    zeros = torch.zeros(2, 32)
    values, scales = QUANTIZERS[name].fitted_to([zeros]).quantize(zeros)
    assert (values == 0).all()
    assert (scales != 0).all()


def test_the_inverse_of_the_least_unit_is_finite() -> None:
    values = torch.full((2, 32), 4e-36)
    quantizer = QUANTIZERS["nvfp4"].fitted_to([values])
    assert torch.isfinite(torch.tensor(1 / quantizer.unit, dtype=torch.float32))


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_weights_that_are_no_numbers_are_refused(name: str, bad: float) -> None:
    values = torch.ones(2, 32)
    values[1, 3] = bad
    with pytest.raises(ConfigError, match="hold finite ones"):
        QUANTIZERS[name].fitted_to([torch.ones(2, 32), values])
