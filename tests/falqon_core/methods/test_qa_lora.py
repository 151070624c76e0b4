"""QA-LoRA with its adapter in the minima, against the authors' formula with the adapter beside."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import ConfigError
from falqon_core.export.adapter import write_adapter
from falqon_core.methods.qa_lora import Int4Linear, QaLora
from tests.falqon_core.meld.models import tiny_model

SIZES = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
DOWN = "model.layers.1.mlp.down_proj"
GROUP_SIZE = 16


def prepared(dtype: torch.dtype) -> QaLora:
    recipe = Recipe(method="qa_lora", rank=4, alpha=8.0, group_size=GROUP_SIZE).resolved(10)
    method = QaLora(recipe)
    method.prepare(tiny_model("llama with biases", dtype, **SIZES), [])
    return method


def disturb(layer: Int4Linear, scale: float = 0.02) -> None:
    generator = torch.Generator().manual_seed(1)
    b = layer.adapter.lora_b
    b.data.copy_(torch.randn(b.shape, generator=generator) * scale)


def reference(x: Tensor, base: Tensor, layer: Int4Linear) -> Tensor:
    """The authors' y = x W^T + s (pool(x) A^T) B^T, x times sqrt(g), alpha / r = 2."""
    pooled = x.unflatten(-1, (-1, GROUP_SIZE)).mean(-1) * math.sqrt(GROUP_SIZE)
    return x @ base.t() + 2 * (pooled @ layer.adapter.lora_a.t()) @ layer.adapter.lora_b.t()


def test_it_computes_the_authors_formula_within_the_rounding_of_the_minima() -> None:
    method = prepared(torch.float32)
    layer = method.layers[DOWN]
    base = layer.base.dequantize()
    disturb(layer)
    method.after_step()
    x = torch.randn(5, 7, 96, generator=torch.Generator().manual_seed(2))
    minima = layer.base.weight.minima.float()
    bound = x.unflatten(-1, (-1, GROUP_SIZE)).sum(-1).abs() @ (minima.abs() * 2**-11).t()
    difference = (layer(x) - layer.bias - reference(x, base, layer)).abs()
    assert (difference <= bound + 1e-5).all()
    assert (reference(x, base, layer) - x @ base.t()).abs().mean() > 20 * bound.mean()


def test_gradients_are_those_of_the_authors_formula() -> None:
    method = prepared(torch.float32)
    layer = method.layers[DOWN]
    base = layer.base.dequantize()
    disturb(layer)
    x = torch.randn(5, 7, 96, generator=torch.Generator().manual_seed(2))
    weights = torch.randn(5, 7, 64, generator=torch.Generator().manual_seed(3))
    parameters = layer.adapter.lora_a, layer.adapter.lora_b
    expected = torch.autograd.grad((reference(x, base, layer) * weights).sum(), parameters)
    gradients = torch.autograd.grad((layer(x) * weights).sum(), parameters)
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-5)
    x.requires_grad_()
    method.after_step()
    (grad_x,) = torch.autograd.grad((layer(x) * weights).sum(), x)
    torch.testing.assert_close(grad_x, weights @ layer.base.dequantize())


def test_codes_stay_and_a_step_says_how_many_minima_changed() -> None:
    method = prepared(torch.bfloat16)
    layer = method.layers[DOWN]
    before = layer.base.weight
    assert method.after_step() == 0
    layer.adapter.lora_b.data[3] = 0.05
    num_minima = sum(layer.base.weight.minima.numel() for layer in method.layers.values())
    assert method.after_step() == pytest.approx(96 / GROUP_SIZE / num_minima)
    after = layer.base.weight
    assert torch.equal(before.codes, after.codes)
    assert torch.equal(before.steps, after.steps)
    assert (before.minima != after.minima).any(1).nonzero().tolist() == [[3]]


def test_what_is_kept_for_backward_is_the_input_by_groups() -> None:
    layer = prepared(torch.bfloat16).layers[DOWN]
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor
    ):
        layer(torch.randn(5, 96, dtype=torch.bfloat16, requires_grad=True))
    parameters = {id(layer.adapter.lora_a), id(layer.adapter.lora_b)}
    (sums,) = [tensor for tensor in kept if id(tensor) not in parameters]
    assert sums.shape == (5, 96 // GROUP_SIZE)


@pytest.mark.parametrize(
    ("group_size", "reason"),
    [
        (64, "64 does not divide the 96 inputs of model.layers.0.mlp.down_proj; .*: 8, 16, 32$"),
        (9, "9 does not divide the 64 inputs of model.layers.0.self_attn.q_proj; .*: 8, 16, 32$"),
    ],
)
def test_a_group_size_that_does_not_fit_is_refused_with_those_that_do(
    group_size: int, reason: str
) -> None:
    recipe = Recipe(method="qa_lora", group_size=group_size).resolved(10)
    with pytest.raises(ConfigError, match=reason) as caught:
        QaLora(recipe).prepare(tiny_model("llama", **SIZES), [])
    assert caught.value.param == "group_size"


def test_as_an_ordinary_adapter_it_is_the_same_model(tmp_path: Path) -> None:
    method = prepared(torch.float32)
    layer = method.layers[DOWN]
    base = layer.base.dequantize()
    disturb(layer)
    method.after_step()
    save_file(method.state(), tmp_path / "method.safetensors")
    progress = {"recipe": method.recipe.model_dump(mode="json")}
    (tmp_path / "progress.json").write_text(json.dumps(progress))
    write_adapter(tmp_path, tmp_path, "base")
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    a, b = (tensors[f"base_model.model.{DOWN}.lora_{factor}.weight"] for factor in "AB")
    assert a.shape == (4, 96)
    rounding = 2**-11 * layer.base.weight.minima.abs().max().item()
    torch.testing.assert_close(base + 2 * b @ a, layer.merged_weight(), rtol=1e-4, atol=rounding)
