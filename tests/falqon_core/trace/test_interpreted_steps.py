"""Two optimizer steps of two layers through the kernels, in Triton's interpreter, against the
same through the oracles: kernels meet each other as they do on a GPU.
"""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from falqon_core.bench.model import random_model
from falqon_core.contract.config import Recipe
from falqon_core.data.loader import microbatches
from falqon_core.data.sequences import TokenSequence
from falqon_core.meld import linear
from falqon_core.methods.falqon import Falqon
from falqon_core.objectives.supervised import Supervised
from falqon_core.ops import kernels
from falqon_core.ops.dispatch import operator
from falqon_core.ops.samples import sqnr_db
from falqon_core.train.optimizer import Optimizer
from falqon_core.train.step import StepBatch, train_step
from tests.falqon_core.meld.models import fp8_weight

CONFIG = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
)
STEPS = 2
# A code in a thousand a step apart is 53 dB; what one step moves, the next one's gradients see.
MIN_SQNR_DB = 30.0


def trained(recipe: Recipe) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Return the loss of each step and what is trained, by name, with the weights it has made."""
    model = random_model(CONFIG, torch.device("cpu"))
    method = Falqon(recipe)
    method.prepare(model, [])
    optimizer = Optimizer(method.parameters(), weight_decay=0.0, max_grad_norm=1.0)
    generator = np.random.Generator(np.random.PCG64(0))
    records = [
        TokenSequence(
            generator.integers(3, 64, length, dtype=np.int32), np.ones(length, dtype=bool)
        )
        for length in (2, 4, 2)
    ]
    batches = microbatches(records, 64, True, 8)
    count = sum(batch.num_labels for batch in batches)
    losses = []
    for step in range(1, STEPS + 1):
        batch = StepBatch(step, batches, count, 8)
        result = train_step(model, method, Supervised(), optimizer, batch, 1e-3)
        losses.append(result.metrics["loss"])
    deltas = {f"{name}.delta": layer.delta.detach() for name, layer in method.layers.items()}
    return losses, deltas | {name: layer.weight for name, layer in method.layers.items()}


@pytest.mark.skipif(not kernels._INTERPRETED, reason="a GPU is at hand: tests/gpu trains there")
def test_steps_through_the_kernels_are_those_of_the_oracles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linear, "new_packed_weight", fp8_weight)
    recipe = Recipe(rank=8, a_init="orthonormal").resolved(3)
    expected_losses, expected = trained(recipe)
    called = set()

    def call_kernel(self: operator, first: torch.Tensor, *args: object, **kwargs: object) -> object:
        kernel = self.kernels.get("cuda")
        if kernel is None or self.name == "scaled_mm.scaled_mm":  # torch's own, which needs a GPU
            return self.oracle(first, *args, **kwargs)
        called.add(self.name)
        return kernel(first, *args, **kwargs)

    monkeypatch.setattr(operator, "__call__", call_kernel)
    losses, values = trained(recipe)

    assert len(called) >= 6, called
    assert len({*expected_losses}) == STEPS
    assert losses == pytest.approx(expected_losses, rel=2e-3)
    noise = {name: sqnr_db([values[name]], [value]) for name, value in expected.items()}
    assert all(level is None or level >= MIN_SQNR_DB for level in noise.values()), noise
