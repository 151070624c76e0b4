import pytest
import torch
from torch import nn

from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import ConfigError
from falqon_core.meld.convert import convert_to_melded, swap_blocks
from falqon_core.meld.linear import MeldedLinear
from falqon_core.meld.update import update_rule
from falqon_core.ops.quantize import quantize_rows
from tests.falqon_core.meld.models import CONFIGS, tiny_model

RECIPE = Recipe(rank=8, a_init="orthonormal").resolved(10)
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_melded_model_computes_what_its_rounded_weights_say(name: str) -> None:
    """Against transformers' own modules and attention, the linears' weights rounded in place."""
    model = tiny_model(name, torch.float32)
    plain = tiny_model(name, torch.float32, "eager")
    swap_blocks(model)
    layers = convert_to_melded(model, RECIPE, update_rule(RECIPE))
    assert len(layers) == 14
    for full_name, linear in plain.named_modules():
        if isinstance(linear, nn.Linear) and full_name != "lm_head":
            linear.weight.data = quantize_rows(linear.weight.data)[0]
    input_ids = torch.randint(3, 97, (2, 11))
    torch.testing.assert_close(
        model(input_ids).logits, plain(input_ids).logits, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_only_deltas_and_the_a_of_linears_that_do_not_narrow_train(name: str) -> None:
    model = tiny_model(name)
    swap_blocks(model)
    layers = convert_to_melded(model, RECIPE, update_rule(RECIPE))
    model(torch.randint(3, 97, (2, 11))).logits.float().logsumexp(-1).sum().backward()
    trained = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    # those that do not narrow, with the ones that read the same
    of_a = {name for name, layer in layers.items() if layer.a_master is not None}
    assert {name.rpartition(".")[2] for name in set(layers) - of_a} == {"down_proj"}
    assert set(trained) == {f"{name}.delta" for name in layers} | {
        f"{name}.a_master" for name in of_a
    }
    assert all(layer.delta.grad.abs().sum() > 0 for layer in layers.values())
    assert all(parameter.grad is not None for parameter in trained.values())


def test_head_and_tied_embeddings_stay() -> None:
    model = tiny_model("smollm")
    convert_to_melded(model, RECIPE, update_rule(RECIPE))
    assert type(model.lm_head) is nn.Linear
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_biases_stay() -> None:
    model = tiny_model("qwen2")
    before = model.model.layers[0].self_attn.q_proj.bias
    layers = convert_to_melded(model, RECIPE, update_rule(RECIPE))
    assert layers["model.layers.0.self_attn.q_proj"].bias is before
    assert not before.requires_grad
    assert layers["model.layers.0.self_attn.o_proj"].bias is None


def test_target_modules_choose() -> None:
    model = tiny_model("llama")
    recipe = RECIPE.model_copy(update={"target_modules": ("q_proj", "down_proj")})
    layers = convert_to_melded(model, recipe, update_rule(recipe))
    assert {name.rpartition(".")[2] for name in layers} == {"q_proj", "down_proj"}
    assert not isinstance(model.model.layers[0].self_attn.k_proj, MeldedLinear)


@pytest.mark.parametrize("unknown", ["qproj", "lm_head"])
def test_unknown_target_modules_are_refused(unknown: str) -> None:
    recipe = RECIPE.model_copy(update={"target_modules": ("q_proj", unknown)})
    with pytest.raises(ConfigError, match=unknown) as caught:
        convert_to_melded(tiny_model("llama"), recipe, update_rule(recipe))
    assert caught.value.param == "target_modules"


def test_a_rank_above_the_inputs_is_refused() -> None:
    recipe = RECIPE.model_copy(update={"rank": 41})
    with pytest.raises(ConfigError) as caught:
        convert_to_melded(tiny_model("llama"), recipe, update_rule(recipe))
    assert caught.value.param == "rank"


@pytest.mark.parametrize("update_rule_name", ["anchored", "topk"])
@pytest.mark.parametrize("a_init", ["quant_error", "orthonormal"])
def test_a_is_filled(update_rule_name: str, a_init: str) -> None:
    recipe = Recipe.model_validate(
        {"rank": 8, "update_rule": update_rule_name, "a_init": a_init}
    ).resolved(10)
    for layer in convert_to_melded(tiny_model("llama"), recipe, update_rule(recipe)).values():
        assert layer.a.float().norm(dim=1).min() > 0
        assert layer.weight.float().norm(dim=1).min() > 0
        assert (layer.base is not None) == (update_rule_name == "anchored")


def test_linears_of_one_block_share_their_rows_if_all_of_them_are_chosen() -> None:
    model = tiny_model("qwen3")
    swap_blocks(model)
    recipe = RECIPE.model_copy(
        update={"target_modules": ("q_proj", "k_proj", "v_proj", "gate_proj", "down_proj")}
    )
    layers = convert_to_melded(model, recipe, update_rule(recipe))
    assert list(layers)[:5] == [
        f"model.layers.0.{name}"
        for name in (
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "mlp.gate_proj",
            "mlp.down_proj",
        )
    ]
    packed = {name: layer.packed for name, layer in layers.items() if ".0." in name}
    q, k, v, gate, down = packed.values()
    assert q is k is v
    assert q.sizes == (40, 20, 20)
    assert gate.sizes == (56,)
    assert gate is not down
    model(torch.randint(3, 97, (2, 11))).logits.float().logsumexp(-1).sum().backward()
    assert all(layer.delta.grad is not None for layer in layers.values())


def test_modules_that_are_not_known_stay_and_their_linears_are_melded_alone() -> None:
    model = tiny_model("llama")
    layers = convert_to_melded(model, RECIPE, update_rule(RECIPE))
    assert all(layer.packed.sizes == (layer.out_features,) for layer in layers.values())
    assert type(model.model.layers[0].self_attn).__name__ == "LlamaAttention"
