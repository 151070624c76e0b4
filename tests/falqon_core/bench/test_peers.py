import pytest
import torch

from falqon_core.bench.peers import PeftLora
from falqon_core.contract.config import Recipe
from falqon_core.meld.init import orthonormal
from falqon_core.objectives.loss import microbatch_loss
from tests.falqon_core.meld.models import tiny_model
from tests.falqon_core.methods.test_falqon import batch

RECIPE = Recipe(rank=4).resolved(10)


@pytest.mark.parametrize("train_a", [True, False])
def test_training_starts_from_the_base_and_moves_only_the_adapters(train_a: bool) -> None:
    (microbatch,) = batch(packing=True)
    before, _ = microbatch_loss(tiny_model("smollm"), microbatch)
    model = tiny_model("smollm")
    method = PeftLora(RECIPE, train_a)
    method.prepare(model, [])
    loss, _ = microbatch_loss(model, microbatch)
    assert torch.equal(loss, before)
    loss.backward()
    parameters = method.parameters()
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == {
        f"{name}.default.weight" for name in parameters
    }
    assert len(parameters) == (28 if train_a else 14)
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1)
    optimizer.step()
    assert microbatch_loss(model, microbatch)[0] < before


def test_a_frozen_a_is_the_orthonormal_one_of_the_melded_method() -> None:
    method = PeftLora(RECIPE, train_a=False)
    method.prepare(tiny_model("smollm"), [])
    name = "model.layers.1.mlp.down_proj"
    assert torch.equal(method.state()[f"{name}.lora_A"], orthonormal(name, 56, 4, RECIPE.seed))
