"""Where inputs of layers wait changes no bit; nothing of them stays with the autograd graph."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from falqon_core.contract.config import Recipe
from falqon_core.data.dataset import load_dataset
from falqon_core.data.loader import microbatches
from falqon_core.methods.falqon import Falqon
from falqon_core.objectives.loss import microbatch_loss
from falqon_core.train.activation_checkpointing import checkpoint_activations
from falqon_core.train.activation_offload import offload_inputs
from falqon_core.train.model import load_base_model, load_tokenizer
from falqon_core.train.streaming import stream_layers


@pytest.mark.parametrize("streams", [True, False])
def test_offloaded_inputs_change_no_bit(streams: bool, deep_folder: Path, train_file: Path) -> None:
    """Microbatches of different sizes share the memory; A is sought through it, too."""
    sequences = load_dataset(train_file, load_tokenizer(deep_folder), 64).sequences
    batches = [microbatches(sequences[:number], 512, True)[0] for number in (2, 8, 4)]
    results: list[list[Tensor]] = []
    for offloads in (False, True):
        model = load_base_model(deep_folder, streamed=streams)
        method = Falqon(Recipe(rank=8, a_init="gradient").resolved(30))
        if streams:
            with stream_layers(model):
                if offloads:
                    offload_inputs(model)
                method.prepare(model, batches)
        checkpoint_activations(model)
        if offloads:
            offload_inputs(model)
        if not streams:
            method.prepare(model, batches)
        losses = []
        for batch in batches:
            loss, _ = microbatch_loss(model, batch)
            loss.backward()
            losses.append(loss.detach())
        gradients = [p.grad for p in method.parameters().values() if p.grad is not None]
        results.append([*losses, *gradients])
    assert len(results[0]) == 3 + 35 + 30  # losses, B, A but of down
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_an_input_that_was_offloaded_is_freed(deep_folder: Path, train_file: Path) -> None:
    """All but the last layer's, which autograd saves as it is."""
    sequences = load_dataset(train_file, load_tokenizer(deep_folder), 64).sequences
    batch = microbatches(sequences[:8], 512, True)[0]
    kept = []
    for offloads in (False, True):
        model = load_base_model(deep_folder)
        Falqon(Recipe(rank=8, a_init="orthonormal").resolved(30)).prepare(model, [])
        checkpoint_activations(model)
        if offloads:
            offload_inputs(model)
        inputs: list[StorageWeakRef] = []
        for layer in model.base_model.layers:
            layer.register_forward_pre_hook(
                lambda _, arguments, inputs=inputs: inputs.append(
                    StorageWeakRef(arguments[0].untyped_storage())
                )
            )
        loss, _ = microbatch_loss(model, batch)
        kept.append([not reference.expired() for reference in inputs])
        del loss
    assert kept == [[True] * 5, [False] * 4 + [True]]
