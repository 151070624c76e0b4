from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import ConfigError
from falqon_core.export.adapter import write_adapter
from falqon_core.methods.iec import IecAdapter
from falqon_core.methods.ir_lora import IrLora
from tests.falqon_core.meld.models import tiny_model

SIZES = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
NAME = "model.layers.0.self_attn.q_proj"


def recipe_of(**options: Any) -> Recipe:
    return Recipe.model_validate({"method": "ir_lora", "rank": 4} | options).resolved(10)


def adapter_of(group_size: int) -> IecAdapter:
    adapter = IecAdapter(NAME, torch.empty(24, 32), 4, 0.5, seed=0, group_size=group_size)
    generator = torch.Generator().manual_seed(1)
    for parameter in adapter.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return adapter


@pytest.mark.parametrize("group_size", [1, 8])
def test_an_elastic_adapter_computes_what_the_authors_do(group_size: int) -> None:
    adapter = adapter_of(group_size)
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(2))
    a, b, beta1, beta2 = adapter.lora_a, adapter.lora_b, adapter.beta1, adapter.beta2
    pooled = x.unflatten(-1, (-1, group_size)).sum(-1) / group_size**0.5
    z = pooled @ a.t() + beta1 * x.reshape(2, 5, 4, -1).mean(-1)
    expected = ((z @ b.t()).reshape(2, 5, 4, -1) + beta2 * z.unsqueeze(-1)).reshape(2, 5, -1)
    result = adapter(x, torch.zeros(2, 5, 24))
    torch.testing.assert_close(result, 0.5 * expected, rtol=1e-4, atol=1e-4)
    parameters = tuple(adapter.parameters())
    gradients = torch.autograd.grad(result.square().sum(), parameters)
    expected_gradients = torch.autograd.grad((0.5 * expected).square().sum(), parameters)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(x @ adapter.product().t(), 0.5 * expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("group_size", [None, 8])
def test_its_exported_adapter_is_an_ordinary_one(group_size: int | None, tmp_path: Path) -> None:
    options: dict[str, Any] = {"alpha": 2.0}
    if group_size is not None:
        options |= {"quantizer": "int4", "group_size": group_size}
    adapter = adapter_of(group_size or 1)
    state = {f"{NAME}.{key}": value.detach() for key, value in adapter.named_parameters()}
    save_file(state, tmp_path / "method.safetensors")
    recipe = recipe_of(**options).model_dump_json()
    (tmp_path / "progress.json").write_text(f'{{"recipe": {recipe}}}')
    output = tmp_path / "lora"
    output.mkdir()
    write_adapter(tmp_path, output, "base")
    tensors = load_file(output / "adapter_model.safetensors")
    a = tensors[f"base_model.model.{NAME}.lora_A.weight"]
    b = tensors[f"base_model.model.{NAME}.lora_B.weight"]
    assert len(tensors) == 2
    torch.testing.assert_close(0.5 * (b @ a), adapter.product())


@pytest.mark.parametrize("options", [{}, {"quantizer": "int4"}])
def test_what_a_checkpoint_holds_is_not_searched_again(options: dict[str, Any]) -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    method = IrLora(recipe_of(**options))
    searched = method.create_base(NAME, weight, {})
    (choice,) = searched.search_results().values()
    assert choice.unique().numel() > 1
    stored = method.create_base(NAME, weight, {"choice": torch.full_like(choice, 7)})
    assert torch.equal(*stored.search_results().values(), torch.full_like(choice, 7))
    assert not torch.equal(stored.dequantize(), searched.dequantize())
    error = (searched.dequantize() - weight).norm() / weight.norm()
    assert error < 0.12


def test_a_rank_that_does_not_divide_a_linear_is_refused() -> None:
    model = tiny_model("llama", **SIZES)
    with pytest.raises(ConfigError, match=r"12 does not divide the 64 .* 1, 2, 4, 8") as caught:
        IrLora(recipe_of(rank=12)).prepare(model, [])
    assert caught.value.param == "rank"


def test_a_group_that_does_not_divide_a_linear_is_refused() -> None:
    model = tiny_model("llama", **SIZES)
    with pytest.raises(ConfigError, match="96 inputs") as caught:
        IrLora(recipe_of(quantizer="int4", group_size=64)).prepare(model, [])
    assert caught.value.param == "group_size"
