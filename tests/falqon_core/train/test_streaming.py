"""Host memory is the CPU's; the device that weights pass to is the CPU as well where numbers are
compared, and torch's meta device where it is asked what lies where.
"""

from pathlib import Path

import pytest
import torch
from torch import nn

from falqon_core.contract.config import Recipe
from falqon_core.meld.convert import convert_to_melded, swap_blocks, target_linears
from falqon_core.meld.init import gradient_sketches
from falqon_core.meld.update import update_rule
from falqon_core.train.model import load_base_model
from falqon_core.train.streaming import stream_layers

META = torch.device("meta")
IDS = torch.arange(3, 35).view(2, 16)


def sketches_of(folder: Path, streamed: bool) -> dict[str, torch.Tensor]:
    model = load_base_model(folder, streamed=streamed).requires_grad_(False)
    with gradient_sketches(model, target_linears(model, None), 4, 1) as sketches:
        if streamed:
            with stream_layers(model):
                model(IDS, use_cache=False).logits.square().mean().backward()
        else:
            model(IDS, use_cache=False).logits.square().mean().backward()
    return sketches


def test_streamed_layers_give_the_same_gradients_bit_for_bit(tiny_folder: Path) -> None:
    expected = sketches_of(tiny_folder, streamed=False)
    streamed = sketches_of(tiny_folder, streamed=True)

    assert expected.keys() == streamed.keys()
    for name, sketch in expected.items():
        assert sketch.any()
        assert torch.equal(streamed[name], sketch), name


def linears_of(model: nn.Module) -> list[nn.Linear]:
    return list(target_linears(model, None).values())


@pytest.mark.parametrize("target_modules", [None, ("q_proj",)])
def test_weights_come_a_layer_at_a_time_and_codes_stay(
    tiny_folder: Path, target_modules: tuple[str, ...] | None
) -> None:
    model = load_base_model(tiny_folder, META, streamed=True)
    weights = [linear.weight for linear in linears_of(model)]
    others = [x for x in model.parameters() if not any(x is weight for weight in weights)]

    with torch.no_grad(), stream_layers(model):
        logits = model(IDS.to(META), use_cache=False).logits

    assert logits.device == META
    assert all(x.device == META for x in others)
    assert [linear.weight for linear in linears_of(model)] == weights
    assert all(weight.device.type == "cpu" for weight in weights)

    recipe = Recipe(rank=4, a_init="orthonormal", target_modules=target_modules).resolved(8)
    swap_blocks(model)
    convert_to_melded(model, recipe, update_rule(recipe), fresh=False)
    assert all(x.device == META for x in [*model.parameters(), *model.buffers()])
