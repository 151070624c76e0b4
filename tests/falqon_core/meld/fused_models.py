"""Models on FP8 codes with fused decoder layers, and the same ones not fused."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from falqon_core.contract.config import Recipe
from falqon_core.meld import convert
from falqon_core.meld.convert import convert_to_melded, swap_blocks
from falqon_core.meld.fused import FusedDecoderLayer
from falqon_core.meld.linear import MeldedLinear
from falqon_core.meld.update import Anchored
from tests.falqon_core.meld.models import ALIGNED, tiny_model
from tests.falqon_core.ops.devices import KERNEL_DEVICE

RECIPE = Recipe(rank=8, a_init="orthonormal", train_a=False).resolved(10)
TRAINS_A = RECIPE.model_copy(update={"train_a": True})
RANK = 8
TOKENS = 24
HIDDEN = 48
INTERMEDIATE = 64


def melded(model: PreTrainedModel, recipe: Recipe = RECIPE) -> dict[str, MeldedLinear]:
    """With deltas that are not zero."""
    swap_blocks(model)
    layers = convert_to_melded(model, recipe, Anchored())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in layers.values():
            layer.delta.normal_(std=0.05, generator=generator)
            layer.refresh()
    return layers


@contextmanager
def unfused() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert, "fuse_decoder_layers", lambda model: None)
        yield


def pair(
    name: str, recipe: Recipe = RECIPE
) -> list[tuple[PreTrainedModel, dict[str, MeldedLinear]]]:
    """A fused model and the same one not fused."""
    fused = tiny_model(name, **ALIGNED)
    layers = melded(fused, recipe)
    plain = tiny_model(name, **ALIGNED)
    with unfused():
        plain_layers = melded(plain, recipe)
    assert [isinstance(model.model.layers[0], FusedDecoderLayer) for model in (fused, plain)] == [
        True,
        False,
    ]
    return [(fused, layers), (plain, plain_layers)]


def loss_of(model: PreTrainedModel, packed: bool = True) -> Tensor:
    input_ids = torch.randint(
        3, 97, (1, TOKENS) if packed else (3, 8), generator=torch.Generator().manual_seed(1)
    )
    segments = {"cu_seqlens": torch.tensor([0, 9, TOKENS]), "max_seqlen": 15} if packed else {}
    return (
        model.model(input_ids, use_cache=False, **segments)
        .last_hidden_state.float()
        .square()
        .mean()
    )


def rotation(model: PreTrainedModel, num_tokens: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the positions, as the model gives them to its layers."""
    positions = torch.arange(num_tokens, device=KERNEL_DEVICE)[None]
    cos, sin = model.model.rotary_emb(model.model.embed_tokens.weight, positions)
    return cos, sin


@contextmanager
def saved_tensors() -> Iterator[list[Tensor]]:
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor
    ):
        yield saved


def num_bytes(saved: list[Tensor]) -> int:
    return sum(
        {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for tensor in saved
        }.values()
    )
