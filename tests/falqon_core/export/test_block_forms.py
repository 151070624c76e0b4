"""Weights in blocks as files hold them, read by compressed-tensors and the `gguf` library."""

from typing import Any

import gguf
import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme
from gguf import GGMLQuantizationType
from torch import Tensor

from falqon_core.contract.block_weights import BLOCK_SPECS, BlockName
from falqon_core.contract.errors import ModelError
from falqon_core.contract.quantization_config import quantization_config, weights_of
from falqon_core.export.block_forms import BLOCK_FORMS, ggml_block_bytes
from falqon_core.meld.block_quantizer import QUANTIZERS


def blocks_of(name: str) -> tuple[Tensor, Tensor, Tensor, float]:
    """Return a weight on the grid fp32 [48, 128], its codes, its scales and their unit."""
    torch.manual_seed(0)
    weight = 0.02 * torch.randn(48, 128)
    weight[3] = 0
    quantizer = QUANTIZERS[name].fitted_to([weight])
    values, scales = quantizer.quantize(weight)
    return values, quantizer.codes_of(values, scales), scales, quantizer.unit


def scheme_of(name: BlockName) -> QuantizationScheme:
    described = QuantizationConfig.model_validate(quantization_config([], name))
    scheme = described.config_groups["group_0"]
    assert isinstance(scheme, QuantizationScheme)
    return scheme


@pytest.mark.parametrize("name", BLOCK_SPECS)
def test_compressed_tensors_reads_the_very_values(name: BlockName) -> None:
    values, codes, scales, unit = blocks_of(name)
    tensors = BLOCK_FORMS[name].pack(codes, scales, unit)
    compressor = BaseCompressor.get_value_from_registry(BLOCK_SPECS[name].folder)
    assert compressor.can_compress(torch.nn.Linear, scheme_of(name))
    read = compressor.decompress(dict(tensors), scheme_of(name))["weight"]
    assert read.dtype == torch.bfloat16
    assert torch.equal(read.float(), values)
    stored = sum(tensor.nbytes for last, tensor in tensors.items() if last != "weight_shape")
    assert stored * 8 / values.numel() == pytest.approx(BLOCK_SPECS[name].bits, abs=0.01)


@pytest.mark.parametrize("name", BLOCK_SPECS)
def test_what_is_packed_comes_back(name: BlockName) -> None:
    values, codes, scales, unit = blocks_of(name)
    form = BLOCK_FORMS[name]
    read_codes, read_scales = form.unpack("weight", form.pack(codes, scales, unit))
    assert torch.equal(read_codes, codes)
    assert torch.equal(read_scales, scales)
    assert torch.equal(form.dequantize(read_codes, read_scales).float(), values)


@pytest.mark.parametrize("name", ["q4_0", "q8_0"])
def test_llama_cpp_reads_the_very_values(name: BlockName) -> None:
    values, codes, scales, _ = blocks_of(name)
    rows = ggml_block_bytes(name, codes, scales)
    read = gguf.dequantize(rows.numpy(), GGMLQuantizationType[name.upper()])
    assert torch.equal(torch.from_numpy(read), values)


def damaged(tensors: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    match what:
        case "no scale":
            return {last: each for last, each in tensors.items() if last != "weight_scale"}
        case "few scales":
            return tensors | {"weight_scale": tensors["weight_scale"][:, 1:]}
        case "other codes":
            return tensors | {"weight_packed": tensors["weight_packed"].float()}
        case "scales of fp32":
            return tensors | {"weight_scale": tensors["weight_scale"].float()}
    return tensors | {"weight_global_scale": torch.tensor([float("nan")])}


@pytest.mark.parametrize("what", ["no scale", "few scales", "other codes", "scales of fp32", "nan"])
@pytest.mark.parametrize("name", BLOCK_SPECS)
def test_damaged_tensors_are_refused_by_name(name: BlockName, what: str) -> None:
    if what == "nan" and name != "nvfp4":
        return
    _, codes, scales, unit = blocks_of(name)
    form = BLOCK_FORMS[name]
    with pytest.raises(ModelError, match=r"layer\.weight"):
        form.unpack("layer.weight", damaged(form.pack(codes, scales, unit), what))


@pytest.mark.parametrize("name", ["fp8", *BLOCK_SPECS])
def test_a_description_says_its_form(name: Any) -> None:
    described = quantization_config(["lm_head"], name)
    assert weights_of({"quantization_config": described}) == name
    assert weights_of({"quantization_config": described | {"format": "dense"}}) is None
    assert weights_of({"quantization_config": described | {"ignore": None}}) is None
    assert weights_of({}) is None
