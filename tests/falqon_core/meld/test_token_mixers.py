"""Models whose layers carry something from token to token, or from layer to layer."""

import numpy as np
import pytest
import torch
from torch import Tensor

from falqon_core.contract.config import Recipe
from falqon_core.data.microbatch import collate
from falqon_core.data.sequences import TokenSequence
from falqon_core.meld.token_mixers import mix_by_segment
from falqon_core.methods import create_method
from falqon_core.objectives.loss import microbatch_loss
from falqon_core.ops import attention
from falqon_core.train.activation_checkpointing import checkpoint_activations
from tests.falqon_core.families.models import FAMILIES, random_model

LENGTHS = (70, 2, 31)
RECIPE = Recipe(rank=8, a_init="orthonormal").resolved(len(LENGTHS))


def gradients(name: str, packing: bool = True, checkpointing: bool = False) -> dict[str, Tensor]:
    """Return the loss of three records and the gradients of all that trains."""
    model = random_model(FAMILIES[name])
    model.set_attn_implementation(attention.ATTENTION_NAME)
    mix_by_segment(model)
    method = create_method(RECIPE)
    method.prepare(model, [])
    if checkpointing:
        checkpoint_activations(model)
    trained = method.parameters()
    for parameter in trained.values():
        parameter.data.normal_(std=0.02, generator=torch.Generator().manual_seed(1))
    records = [np.arange(5, 5 + length, dtype=np.int32) * length % 960 for length in LENGTHS]
    loss, _ = microbatch_loss(
        model, collate([TokenSequence(ids, ids >= 0) for ids in records], packing)
    )
    loss.backward()
    found = {key: value.grad for key, value in trained.items() if value.grad is not None}
    assert len(found) == len(trained)
    return {"loss": loss.detach()} | found


@pytest.mark.parametrize("name", ["Qwen3.5", "LFM2"])
def test_packed_records_train_as_padded_ones(name: str) -> None:
    packed, padded = gradients(name), gradients(name, packing=False)
    for key, gradient in packed.items():
        assert (padded[key] - gradient).norm() < 0.02 * gradient.norm(), key


@pytest.mark.parametrize("name", ["Qwen3.5", "Gemma 4"])
def test_layers_that_are_computed_again_have_the_same_gradients(name: str) -> None:
    """Those of Gemma 4 that read the keys and values of an earlier layer as well."""
    kept, computed = gradients(name), gradients(name, checkpointing=True)
    assert all(torch.equal(computed[key], gradient) for key, gradient in kept.items())
