"""Quantized weights have the same bits on a card as on the CPU that exports what it trained."""

import pytest
import torch

from falqon_core.meld.block_quantizer import QUANTIZERS
from falqon_core.methods import create_method
from tests.falqon_core.meld.models import tiny_model
from tests.falqon_core.methods.test_adapters import RECIPES, SIZES, recipe_of
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


@pytest.mark.parametrize("name", RECIPES)
def test_a_cpu_restores_what_a_card_has_trained(name: str) -> None:
    on_card = create_method(recipe_of(name))
    on_card.prepare(tiny_model("llama with biases", **SIZES).cuda(), [])
    state = {key: value.cpu() for key, value in on_card.state().items()}
    on_cpu = create_method(recipe_of(name))
    on_cpu.restore(tiny_model("llama with biases", **SIZES), state)
    assert on_cpu.state().keys() == state.keys()
