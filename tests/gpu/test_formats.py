"""Quantized weights have the same bits on a card as on the CPU that exports what it trained."""

import pytest
import torch

from falqon_core.meld.block_quantizer import QUANTIZERS
from tests.falqon_core.ops.formats.test_devices import QUANTIZE, weight_of

DTYPES = (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", QUANTIZE)
def test_codes_and_scales_are_those_of_a_cpu(name: str, dtype: torch.dtype) -> None:
    weight = weight_of(dtype)
    expected = QUANTIZE[name](weight)
    on_card = QUANTIZE[name](weight.cuda())
    assert all(torch.equal(a, b.cpu()) for a, b in zip(expected, on_card, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", QUANTIZERS)
def test_block_scales_are_those_of_a_cpu(name: str, dtype: torch.dtype) -> None:
    weight = weight_of(dtype)
    quantizer = QUANTIZERS[name].fitted_to([weight])
    expected = quantizer.choose_scales(weight)
    assert torch.equal(quantizer.choose_scales(weight.cuda()).cpu(), expected)
