"""Experts of e4m3 codes compute what transformers' own modules compute of the same values."""

import pytest
import torch
from torch import Tensor, nn
from transformers import GptOssConfig, PreTrainedConfig, Qwen3MoeConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from falqon_core.contract.errors import ModelError
from falqon_core.ops.experts import (
    EXPERTS_NAME,
    WEIGHTS,
    ExpertLoad,
    quantize_experts,
    quantize_experts_of,
    quantize_mxfp4,
    take_load,
)
from tests.falqon_core.families.models import FAMILIES, random_model, round_to_mxfp4_

SIZES = {"hidden_size": 16, "num_local_experts": 5, "num_experts_per_tok": 2}
LAYERS: dict[str, tuple[type[nn.Module], PreTrainedConfig]] = {
    "qwen3": (Qwen3MoeExperts, Qwen3MoeConfig(**SIZES, moe_intermediate_size=24)),
    "transposed, with biases": (GptOssExperts, GptOssConfig(**SIZES, intermediate_size=24)),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_outputs_and_gradients_are_those_of_transformers(layer: str) -> None:
    torch.manual_seed(0)
    module_class, config = LAYERS[layer]
    ours, theirs = (module_class(config) for _ in range(2))
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    theirs.load_state_dict(ours.state_dict())
    quantize_experts_of(ours)
    for name in WEIGHTS:
        codes, scale = (getattr(ours, key) for key in (name, f"{name}_scale"))
        weight = theirs.get_parameter(name)
        values = codes.float() * scale
        assert ((values - weight).abs() <= weight.abs() / 16 + scale / 512).all()
        weight.data = values
    assert_same(config, ours, theirs)


@pytest.mark.parametrize("layer", LAYERS)
def test_experts_in_mxfp4_are_exactly_those_that_came(layer: str) -> None:
    module_class, config = LAYERS[layer]
    config = type(config)(
        **config.to_dict()
        | {"hidden_size": 64, "moe_intermediate_size": 32, "intermediate_size": 32}
    )
    torch.manual_seed(0)
    ours, theirs = (module_class(config) for _ in range(2))
    for name, parameter in ours.named_parameters():
        nn.init.normal_(parameter, std=0.3)
        if name in WEIGHTS:
            with torch.no_grad():
                round_to_mxfp4_(parameter.transpose(1, 2) if ours.is_transposed else parameter)
    theirs.load_state_dict(ours.state_dict())

    quantize_experts_of(ours, quantize_mxfp4)

    assert {getattr(ours, name).dtype for name in WEIGHTS} == {torch.uint8}
    assert_same(config, ours, theirs)


def test_the_load_of_experts_is_told_once() -> None:
    model = random_model(FAMILIES["Qwen3 MoE"])
    assert take_load(model) is None
    quantize_experts(model)
    for layer, index in zip(model.model.layers, ([[0, 1], [0, 2]], [[3, 1], [2, 0]]), strict=True):
        x, weights = torch.randn(2, 48, requires_grad=True), torch.ones(2, 2)
        layer.mlp.experts(x, torch.tensor(index), weights).sum().backward()
    with torch.no_grad():
        layer.mlp.experts(x, torch.tensor([[0, 1], [0, 1]]), weights)

    load = take_load(model)

    # Of four experts the first layer sends two of four tokens to one, and none to another.
    assert load == ExpertLoad(most_over_mean=1.5, num_unused=1)
    assert take_load(model) is None


def test_a_config_that_lies_about_mxfp4_is_refused() -> None:
    model = random_model(FAMILIES["gpt-oss, MXFP4"])
    down = model.get_parameter("model.layers.1.mlp.experts.down_proj")
    with torch.no_grad():
        down[3, 5, 7] = down.abs().max() * 0.95
    with pytest.raises(ModelError, match="and a weight of theirs is not; remove that key"):
        quantize_experts(model)


def assert_same(config: PreTrainedConfig, ours: nn.Module, theirs: nn.Module) -> None:
    """Compare what experts make of tokens, one of which experts is chosen by none."""
    index = torch.rand(7, 4).topk(2).indices
    x, weights = torch.randn(7, config.hidden_size), torch.rand(7, 2)

    config._experts_implementation = EXPERTS_NAME
    actual = run(ours, x, index, weights)
    config._experts_implementation = "eager"
    expected = run(theirs, x, index, weights)

    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)


def run(module: nn.Module, x: Tensor, index: Tensor, weights: Tensor) -> list[Tensor]:
    """Return the output and the gradients of tokens and weights."""
    x, weights = (value.clone().requires_grad_() for value in (x, weights))
    output = module(x, index, weights)
    return [output, *torch.autograd.grad(output.square().sum(), [x, weights])]
