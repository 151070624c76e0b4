"""What all methods have in common that put adapters beside frozen linears."""

from typing import Any

import pytest
import torch
from torch import Tensor

from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import CheckpointCorrupt, ConfigError
from falqon_core.export.trained import QuantizedLinear
from falqon_core.methods import METHOD_CLASSES, create_method
from falqon_core.methods.lora import Lora
from falqon_core.objectives.loss import microbatch_loss
from falqon_core.ops.quantize import dequantize, quantize_rows
from tests.falqon_core.meld.models import tiny_model
from tests.falqon_core.methods.test_falqon import batch, train

# groups of 32 and four equal parts fit into these
SIZES = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
RECIPES: dict[str, dict[str, Any]] = {name: {"method": name} for name in METHOD_CLASSES}
del RECIPES["falqon"]
RECIPES["ir_lora int4"] = {"method": "ir_lora", "quantizer": "int4"}
RECIPES["fp8_lora, adapters too"] = {"method": "fp8_lora", "adapters_fp8": True}
NUM_LINEARS = 14
DOWN = "model.layers.1.mlp.down_proj"


def recipe_of(name: str) -> Recipe:
    return Recipe.model_validate({"rank": 4} | RECIPES[name]).resolved(10)


def prepared(name: str) -> tuple[Any, Lora]:
    model = tiny_model("llama with biases", **SIZES)
    method = create_method(recipe_of(name))
    assert isinstance(method, Lora)
    method.prepare(model, [])
    return model, method


def loss_of(model: Any) -> Tensor:
    (microbatch,) = batch(packing=True)
    return microbatch_loss(model, microbatch)[0] / microbatch.num_labels


def disturb(method: Lora) -> None:
    """Set what trains to something else, as training would."""
    torch.manual_seed(1)
    for parameter in method.parameters().values():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    method.after_step()


@pytest.mark.parametrize("name", RECIPES)
def test_only_the_adapters_train_and_the_loss_falls(name: str) -> None:
    model, method = prepared(name)
    parameters = method.parameters()
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}
    trained = {id(value) for value in parameters.values()}
    assert {id(value) for value in model.parameters() if value.requires_grad} == trained
    losses, _ = train(model, method, 15, lr=0.02)
    assert losses[-1] < losses[0] - 0.3


@pytest.mark.parametrize("name", RECIPES)
def test_a_restored_method_is_the_same_method(name: str) -> None:
    model, method = prepared(name)
    disturb(method)
    other_model = tiny_model("llama with biases", **SIZES)
    other = create_method(recipe_of(name))
    other.restore(other_model, {key: value.clone() for key, value in method.state().items()})
    assert torch.equal(loss_of(model), loss_of(other_model))
    states = method.state(), other.state()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("name", RECIPES)
def test_merging_rounds_what_was_computed_with_once(name: str) -> None:
    model, method = prepared(name)
    disturb(method)
    before = loss_of(model).item()
    layer = method.layers[DOWN]
    computed = layer.merged_weight()
    method.merge(model)
    merged = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    assert len(merged) == NUM_LINEARS
    weight = dequantize(*model.get_submodule(DOWN).quantized_weight(), dtype=torch.float32)
    assert torch.equal(weight, quantize_rows(computed)[0])
    assert loss_of(model).item() == pytest.approx(before, abs=0.1)


@pytest.mark.parametrize("name", ["fp8_lora", "fishman"])
def test_a_weight_that_is_cast_for_every_product_is_merged_as_it_is_kept(name: str) -> None:
    base = tiny_model("llama with biases", **SIZES).get_submodule(DOWN).weight.detach()
    _, method = prepared(name)
    layer = method.layers[DOWN]
    assert torch.equal(layer.merged_weight(), base.float())
    x = torch.eye(base.shape[1], dtype=torch.bfloat16)
    with torch.no_grad():
        torch.testing.assert_close(layer.base(x).t(), layer.base.dequantize(), rtol=0.01, atol=0)
    error = (layer.base.dequantize() - base).float().norm() / base.float().norm()
    assert 0.01 < error < 0.05


def test_lora_computes_what_peft_computes() -> None:
    from peft import LoraConfig, inject_adapter_in_model

    ours = tiny_model("llama with biases", torch.float32, **SIZES)
    method = Lora(recipe_of("lora"))
    method.prepare(ours, [])
    disturb(method)
    peer = tiny_model("llama with biases", torch.float32, **SIZES)
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=4, target_modules=list(method.layers)), peer)
    for name, layer in method.layers.items():
        peer.get_submodule(f"{name}.lora_A.default").weight.data.copy_(layer.adapter.lora_a)
        peer.get_submodule(f"{name}.lora_B.default").weight.data.copy_(layer.adapter.lora_b)
    losses = loss_of(ours), loss_of(peer)
    torch.testing.assert_close(losses[0], losses[1])
    for loss in losses:
        loss.backward()
    for name, layer in method.layers.items():
        for ours_, theirs in (("lora_a", "lora_A"), ("lora_b", "lora_B")):
            torch.testing.assert_close(
                getattr(layer.adapter, ours_).grad,
                peer.get_submodule(f"{name}.{theirs}.default").weight.grad,
                rtol=1e-4,
                atol=1e-5,
            )


def test_qlora_computes_with_what_bitsandbytes_dequantizes() -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    base = tiny_model("llama with biases", **SIZES).get_submodule(DOWN).weight.detach()
    packed, state = quantize_4bit(base, quant_type="nf4", compress_statistics=True)
    _, method = prepared("qlora")
    weight = method.layers[DOWN].base.dequantize()
    assert torch.equal(weight, dequantize_4bit(packed, state))
    x = torch.randn(3, 96, dtype=torch.bfloat16, requires_grad=True)
    method.layers[DOWN].base(x).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand(3, -1), rtol=0.02, atol=0.02)


def test_another_base_than_that_of_the_checkpoint_is_refused() -> None:
    _, method = prepared("qlora")
    other_model = tiny_model("llama with biases", **SIZES)
    with torch.no_grad():
        other_model.get_submodule(DOWN).weight.mul_(1.5)
    with pytest.raises(CheckpointCorrupt, match=DOWN):
        create_method(recipe_of("qlora")).restore(other_model, method.state())


def test_qlora_codes_of_another_device_are_of_the_same_base() -> None:
    """A card rounds otherwise in bitsandbytes than the CPU that exports its checkpoints."""
    _, method = prepared("qlora")
    method.layers[DOWN].adapter.lora_b.data.fill_(0.5)
    of_card = method.state()
    of_card[f"{DOWN}.base_sha256"] = torch.zeros(32, dtype=torch.uint8)
    restored = create_method(recipe_of("qlora"))
    restored.restore(tiny_model("llama with biases", **SIZES), of_card)
    assert torch.equal(restored.state()[f"{DOWN}.lora_b"], of_card[f"{DOWN}.lora_b"])
    other_model = tiny_model("llama with biases", **SIZES)
    with torch.no_grad():
        other_model.get_submodule(DOWN).weight.mul_(1.5)
    with pytest.raises(CheckpointCorrupt, match=DOWN):
        create_method(recipe_of("qlora")).restore(other_model, of_card)
    del of_card[f"{DOWN}.base_fingerprint_sha256"]  # A checkpoint of an earlier version.
    with pytest.raises(CheckpointCorrupt, match=DOWN):
        create_method(recipe_of("qlora")).restore(tiny_model("llama with biases", **SIZES), of_card)


def test_a_rank_beyond_a_linears_inputs_is_refused() -> None:
    recipe = Recipe.model_validate({"method": "lora", "rank": 65}).resolved(10)
    with pytest.raises(ConfigError, match="more than the 64 inputs") as caught:
        create_method(recipe).prepare(tiny_model("llama", **SIZES), [])
    assert caught.value.param == "rank"
