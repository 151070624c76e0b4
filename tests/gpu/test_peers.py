"""The peers that the benchmark measures, where their packages are installed (`pip install
'.[bench]'`).
"""

import pytest
import torch
from transformers import LlamaConfig

from falqon_core.bench.model import random_model
from falqon_core.bench.steps import SYSTEMS, MeasuredTraining, StepSetup, StepSystem, workloads

SETUP = StepSetup(
    LlamaConfig(
        vocab_size=128,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
    ),
    rank=16,
    num_records=4,
    record_tokens=64,
)


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_a_system_lowers_the_loss(system: StepSystem) -> None:
    for package in system.packages:
        pytest.importorskip(package)
    device = torch.device("cuda")
    training = MeasuredTraining(system, SETUP, SETUP.recipe(device), device)
    for load in workloads(SETUP):
        batches = load.microbatches(256)
        losses = [
            training.step(load, batches, learning_rate=3e-3).figures["loss"] for _ in range(10)
        ]
        assert losses[-1] < losses[0]


def test_random_weights_are_made_on_the_card() -> None:
    model = random_model(SETUP.config, torch.device("cuda"))
    assert {tensor.device.type for tensor in [*model.parameters(), *model.buffers()]} == {"cuda"}
    assert all(tensor.isfinite().all() for tensor in [*model.parameters(), *model.buffers()])
