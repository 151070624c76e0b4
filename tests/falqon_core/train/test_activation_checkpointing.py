from pathlib import Path

import pytest
import torch

from falqon_core.contract.config import Recipe
from falqon_core.data.dataset import load_dataset
from falqon_core.data.loader import microbatches
from falqon_core.methods.falqon import Falqon
from falqon_core.objectives.loss import microbatch_loss
from falqon_core.train.activation_checkpointing import checkpoint_activations
from falqon_core.train.model import load_base_model, load_tokenizer


@pytest.mark.parametrize("packing", [True, False])
def test_gradients_are_the_same_bits_and_less_is_kept(
    packing: bool, tiny_folder: Path, train_file: Path
) -> None:
    batch = microbatches(
        load_dataset(train_file, load_tokenizer(tiny_folder), 64).sequences[:8], 512, packing
    )[0]
    gradients: list[dict[str, torch.Tensor]] = []
    losses: list[torch.Tensor] = []
    sizes: list[int] = []
    for checkpointing in (False, True):
        model = load_base_model(tiny_folder)
        if checkpointing:
            checkpoint_activations(model)
        method = Falqon(Recipe(rank=8, a_init="orthonormal").resolved(30))
        method.prepare(model, [])
        for parameter in method.parameters().values():
            parameter.data.normal_(std=0.02, generator=torch.Generator().manual_seed(1))
        method.after_step()
        saved: dict[int, int] = {}

        def pack(tensor: torch.Tensor, saved: dict[int, int] = saved) -> torch.Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss, _ = microbatch_loss(model, batch)
        loss.backward()
        losses.append(loss.detach())
        sizes.append(sum(saved.values()))
        gradients.append(
            {
                name: parameter.grad.clone()
                for name, parameter in method.parameters().items()
                if parameter.grad is not None
            }
        )
    assert torch.equal(*losses)
    assert len(gradients[0]) == 14 + 12  # of B, and of A but of down
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
    assert sizes[1] < sizes[0] / 2
