"""A model that is converted where its weights have shapes only, on torch's meta device: what lies
where.
"""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from falqon_core.contract.config import Recipe
from falqon_core.meld.convert import convert_to_melded, swap_blocks
from falqon_core.meld.update import update_rule
from tests.falqon_core.meld.streams import Card, card

__all__ = ["card"]


def storage_of(tensor: torch.Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


@pytest.mark.parametrize("target_modules", [None, ("q_proj", "down_proj")])
def test_all_bases_lie_in_one_allocation_of_their_size(
    card: Card, target_modules: tuple[str, ...] | None
) -> None:
    recipe = Recipe(base_copy="host", simulate_fp8=True, rank=4, target_modules=target_modules)
    recipe = recipe.resolved(8)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    swap_blocks(model)
    with card:  # copies are noted, and never carried out
        layers = convert_to_melded(model, recipe, update_rule(recipe), fresh=False)
    bases = [layer.base.values for layer in layers.values() if layer.base is not None]
    assert len(bases) == 2 * (7 if target_modules is None else 2)
    assert {base.device.type for base in bases} == {"cpu"}
    assert {layer.delta.device.type for layer in layers.values()} == {"meta"}
    (memory,) = {(storage.data_ptr(), storage.nbytes()) for storage in map(storage_of, bases)}
    assert memory[1] == sum(base.nbytes for base in bases)
