import pytest
import torch
from torch import nn

from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import ConfigError
from falqon_core.meld.block_quantizer import QUANTIZERS
from falqon_core.meld.convert import convert_to_melded
from falqon_core.meld.linear import MeldedLinear, call_together, meld
from falqon_core.meld.update import Anchored, update_rule
from tests.falqon_core.meld.models import tiny_model

RANK = 5


def melded(name: str, dtype: torch.dtype = torch.bfloat16) -> list[MeldedLinear]:
    """Return a group of two linears whose deltas are not zero."""
    torch.manual_seed(1)
    linears = [nn.Linear(64, size, dtype=dtype).requires_grad_(False) for size in (23, 16)]
    layers = meld(linears, RANK, 0.5, trains_a=True, quantizer=QUANTIZERS[name])
    with torch.no_grad():
        for layer, linear in zip(layers, linears, strict=True):
            layer.delta.normal_(std=0.1)
            a = torch.linalg.qr(torch.randn(64, RANK))[0].t()
            Anchored().start(layer, linear.weight, a)
    return layers


@pytest.mark.parametrize("name", QUANTIZERS)
def test_rows_are_the_rounded_sum_by_the_scales_of_the_base(name: str) -> None:
    layers = melded(name, torch.float32)
    bases = [layer.base.values for layer in layers]
    quantizer = QUANTIZERS[name].fitted_to(bases)
    for layer, base in zip(layers, bases, strict=True):
        scales = quantizer.choose_scales(base)
        delta = (layer.delta.detach() * layer.scaling) @ layer.a
        codes, stored = layer.quantized_weight()
        assert torch.equal(stored, scales)
        assert torch.equal(layer.weight, quantizer.round_values(base + delta, scales))
        assert torch.equal(quantizer.dequantize(codes, stored), layer.weight)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_outputs_and_gradients_are_those_of_the_stored_values(name: str) -> None:
    layers = melded(name, torch.float32)
    x = torch.randn(6, 64, requires_grad=True)
    leaves = [x]
    outputs = []
    for layer in layers:
        delta = layer.delta.detach().clone().requires_grad_()
        a = layer.a.clone().requires_grad_()
        folded = layer.scaling * (delta @ a - layer.delta.detach() @ layer.a)
        outputs.append(nn.functional.linear(x, layer.weight + folded, layer.bias))
        leaves += [delta, a]
    expected = torch.autograd.grad(outputs, leaves, [torch.ones_like(y) for y in outputs])
    ours = call_together(x, *layers)
    trained = [x, *(leaf for layer in layers for leaf in (layer.delta, layer.a_master))]
    actual = torch.autograd.grad(ours, trained, [torch.ones_like(y) for y in ours])
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_loaded_layer_has_the_same_bytes(name: str) -> None:
    layers = melded(name)
    states = [Anchored().state(layer) for layer in layers]
    codes = [layer.quantized_weight() for layer in layers]
    linears = [nn.Linear(64, size, dtype=torch.bfloat16) for size in (23, 16)]
    for linear, layer in zip(linears, layers, strict=True):
        linear.weight = nn.Parameter(layer.base.values, requires_grad=False)
    again = meld(linears, RANK, 0.5, trains_a=True, quantizer=QUANTIZERS[name])
    with torch.no_grad():
        for layer, state, expected in zip(again, states, codes, strict=True):
            Anchored().load(layer, state)
            for one, other in zip(layer.quantized_weight(), expected, strict=True):
                assert torch.equal(one, other)


def test_the_smallest_step_changes_next_to_no_weight() -> None:
    (layer,) = meld(
        [nn.Linear(512, 256, dtype=torch.bfloat16)], RANK, 1.0, quantizer=QUANTIZERS["nvfp4"]
    )
    with torch.no_grad():
        a = torch.linalg.qr(torch.randn(512, RANK))[0].t()
        Anchored().start(layer, layer.base.values, a)
        layer.delta.fill_(1e-7)
        changed = Anchored().after_step(layer)
    assert changed / layer.weight.numel() < 0.001


def test_inputs_that_fill_no_blocks_are_refused() -> None:
    recipe = Recipe(rank=8, a_init="orthonormal").resolved(10)
    with pytest.raises(ConfigError, match=r"has 40 inputs, no multiple of the 32 .* of mxfp4"):
        convert_to_melded(
            tiny_model("smollm"), recipe, update_rule(recipe), quantizer=QUANTIZERS["mxfp4"]
        )
