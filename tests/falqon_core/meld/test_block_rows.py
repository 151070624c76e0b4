import pytest
import torch
from torch import nn

from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import ConfigError
from falqon_core.meld.block_quantizer import QUANTIZERS, BlockQuantizer
from falqon_core.meld.convert import convert_to_melded, swap_blocks
from falqon_core.meld.init import quant_error
from falqon_core.meld.linear import MeldedLinear, call_together, meld
from falqon_core.meld.update import Anchored, update_rule
from tests.falqon_core.families.models import FAMILIES, random_model
from tests.falqon_core.meld.models import ALIGNED, tiny_model

RANK = 5


def fitted(name: str, linears: list[nn.Linear]) -> BlockQuantizer:
    return QUANTIZERS[name].fitted_to([linear.weight for linear in linears])


def melded(name: str, dtype: torch.dtype = torch.bfloat16) -> list[MeldedLinear]:
    """Return a group of two linears whose deltas are not zero."""
    torch.manual_seed(1)
    linears = [nn.Linear(64, size, dtype=dtype).requires_grad_(False) for size in (23, 16)]
    layers = meld(linears, RANK, 0.5, trains_a=True, quantizer=fitted(name, linears))
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
    again = meld(linears, RANK, 0.5, trains_a=True, quantizer=fitted(name, linears))
    with torch.no_grad():
        for layer, state, expected in zip(again, states, codes, strict=True):
            Anchored().load(layer, state)
            for one, other in zip(layer.quantized_weight(), expected, strict=True):
                assert torch.equal(one, other)


def test_the_smallest_step_changes_next_to_no_weight() -> None:
    linears = [nn.Linear(512, 256, dtype=torch.bfloat16)]
    (layer,) = meld(linears, RANK, 1.0, quantizer=fitted("nvfp4", linears))
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


# Of Llama and Qwen3 q, k and v are melded together; of the others each alone, as are w1 and w3.
@pytest.mark.parametrize("family", ["Llama", "Gemma 3", "OLMo 2", "SmolLM3", "LFM2", "Qwen3.5"])
def test_linears_that_vllm_fuses_have_one_global_scale(family: str) -> None:
    model = random_model(FAMILIES[family])
    scales = {"k_proj": 0.25, "v_proj": 4.0, "up_proj": 0.25, "w3": 4.0, "in_proj_z": 0.25}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(scales.get(name.split(".")[-2], 1.0))
    recipe = Recipe(rank=4, a_init="orthonormal", weights="nvfp4").resolved(10)
    swap_blocks(model)
    melded = convert_to_melded(model, recipe, update_rule(recipe), quantizer=QUANTIZERS["nvfp4"])
    fused = ("q_proj k_proj v_proj", "gate_proj up_proj", "w1 w3", "in_proj_qkv in_proj_z")
    units: dict[str, set[float]] = {}
    for name, layer in melded.items():
        block, _, last = name.rpartition(".")
        for together in fused:
            if last in together.split():
                units.setdefault(f"{block} {together}", set()).add(layer.block_quantizer.unit)
    assert units
    assert {len(unit) for unit in units.values()} == {1}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_an_adapter_trains_into_zeros(name: str) -> None:
    linears = [nn.Linear(64, 8, bias=False, dtype=torch.bfloat16) for _ in range(2)]
    with torch.no_grad():
        linears[0].weight.zero_()
        linears[1].weight[:, :32] = 0
    for linear in linears:
        (layer,) = meld([linear], RANK, 1.0, quantizer=fitted(name, [linear]))
        with torch.no_grad():
            torch.manual_seed(0)
            a = torch.linalg.qr(torch.randn(64, RANK))[0].t()
            Anchored().start(layer, linear.weight, a)
            assert (layer.weight[linear.weight == 0] == 0).all()
            layer.delta.normal_(std=0.1)
            Anchored().after_step(layer)
            change = (layer.delta @ layer.a.float())[:, :32]
            trained = layer.weight[:, :32] - linear.weight[:, :32]
        assert (trained - change).norm() < 0.5 * change.norm()


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_along_the_rounding_error_takes_that_of_the_form(name: str) -> None:
    model = tiny_model("smollm", **ALIGNED)
    weight = model.model.layers[0].mlp.down_proj.weight.detach().clone()
    options = {"rank": 4, "a_init": "quant_error", "target_modules": ("down_proj",)}
    recipe = Recipe.model_validate(options).resolved(10)
    layers = convert_to_melded(model, recipe, update_rule(recipe), quantizer=QUANTIZERS[name])
    quantizer = QUANTIZERS[name].fitted_to([weight])
    error = weight.float() - quantizer.quantize(weight.float())[0]
    expected = quant_error(error, 4, scaled=False)
    layer = layers["model.layers.0.mlp.down_proj"]
    cosines = nn.functional.cosine_similarity(layer.a.float(), expected.float())
    assert (cosines.abs() > 0.9).all()
