"""The distance between the weights that a method trains on and those of the base model."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from falqon_core.contract.config import Recipe
from falqon_core.meld.convert import target_linears
from falqon_core.meld.linear import MeldedLinear
from falqon_core.methods import create_method
from falqon_core.methods.adapter import AdaptedLinear


@torch.no_grad()
def measure_base_error(model: PreTrainedModel, recipe: Recipe) -> float:
    """Return the mean over the linears of |W - W as trained on| / |W|, Frobenius norms. `model` is
    changed to train. `recipe` is resolved.
    """
    if recipe.method == "falqon":  # The choice of A changes nothing about W.
        recipe = recipe.model_copy(update={"a_init": "orthonormal"})
    linears = target_linears(model, recipe.target_modules)
    weights = {name: linear.weight.detach().clone() for name, linear in linears.items()}
    create_method(recipe).prepare(model, [])
    errors = [
        float((weight.float() - _trained_weight(model.get_submodule(name))).norm() / weight.norm())
        for name, weight in weights.items()
    ]
    return sum(errors) / len(errors)


def _trained_weight(layer: torch.nn.Module) -> Tensor:
    """Return the weight [O, I] that a converted linear computes with, fp32."""
    if isinstance(layer, MeldedLinear):
        return layer.weight.float()
    assert isinstance(layer, AdaptedLinear)
    return layer.base.dequantize().float()
