from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from falqon_core.bench import steps
from falqon_core.bench.steps import (
    PassSize,
    StepSystem,
    lengths,
    measure_steps,
    placements,
    workloads,
)
from falqon_core.bench.timing import Deadline
from falqon_core.data.loader import Microbatch
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.estimate.estimate import training_flops
from falqon_core.methods.falqon import Falqon
from tests.falqon_core.bench.test_report import SETUP

CPU = torch.device("cpu")


class Cramped(Falqon):
    """As on a card that has no room for more than 24 tokens of activations, unless they are
    computed again.
    """

    def prepare(self, model: PreTrainedModel, first_microbatches: Sequence[Microbatch]) -> None:
        super().prepare(model, first_microbatches)

        def allocate(module: nn.Module, _: Any, arguments: dict[str, Any]) -> None:
            recomputes = isinstance(module.layers[0].forward, partial)
            if arguments["input_ids"].numel() > (48 if recomputes else 10):
                raise torch.OutOfMemoryError("CUDA out of memory")

        model.base_model.register_forward_pre_hook(allocate, with_kwargs=True)


class Broken(Falqon):
    def prepare(self, model: PreTrainedModel, first_microbatches: Sequence[Microbatch]) -> None:
        raise ValueError("this card is not supported\nand why")


def measured(
    *systems: StepSystem, seconds: float = 1e9, rounds: int = 1
) -> list[steps.StepTimings]:
    return measure_steps(SETUP, CPU, Deadline(seconds), 0, lambda _: None, rounds, systems)


def test_placements_go_from_one_large_microbatch_to_single_records() -> None:
    assert placements(SETUP) == [
        PassSize(size, checkpointing) for checkpointing in (False, True) for size in (96, 48, 24)
    ]


def test_the_first_placement_that_fits_is_taken_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "GPU_ROW_MULTIPLE", 256)
    published, packed = measured(StepSystem("cramped", (), Cramped), rounds=2)
    assert published.status == "measured"
    assert (
        published.microbatch_tokens,
        published.checkpointing,
        published.rounds,
        len(published.seconds),
    ) == (48, True, 2, 4)
    # packed rows are filled up to 256 tokens, which it never has
    assert packed.status.startswith("failed: OutOfMemoryError: ")


def test_a_system_that_fails_is_named_and_the_others_go_on() -> None:
    broken, _, fine, _ = measured(StepSystem("broken", (), Broken), StepSystem("fine", (), Falqon))
    assert broken.status == "failed: ValueError: this card is not supported"
    assert fine.status == "measured"


def test_what_the_time_limit_cuts_off_says_so() -> None:
    for result in measured(StepSystem("late", (), Falqon), seconds=-1):
        assert result.status == "not measured: the time limit was reached"


def test_a_peer_that_is_not_installed_is_named() -> None:
    for result in measured(StepSystem("peer", ("torch", "surely_not_a_package"), Falqon)):
        assert result.status == "not installed: surely_not_a_package"


def test_the_workloads() -> None:
    published, packed = workloads(replace(SETUP, num_records=16, record_tokens=528))
    assert (published.num_tokens, published.keys_per_token) == (8448, 264.5)
    assert [batch.input_ids.shape for batch in published.microbatches(4224)] == [(8, 528), (8, 528)]
    assert [len(record) for record in packed.records] == lengths(16, 528)
    assert lengths(3, 528) == [101, 180, 322]
    assert max(lengths(16, 528)) == 528
    assert all(batch.input_ids.shape[1] % 16 == 0 for batch in packed.microbatches(1056))
    assert sum(batch.num_tokens for batch in packed.microbatches(1056)) == packed.num_tokens


def test_the_bound_counts_the_operations_of_our_method() -> None:
    (published, _) = measured(StepSystem("ours", (), Falqon))
    dimensions = ModelDimensions.from_config(SETUP.config.to_dict())
    assert published.bound_flops == training_flops(
        dimensions, SETUP.recipe(CPU), 96, keys_per_token=12.5
    )


def test_a_base_that_does_not_fit_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SETUP.recipe(CPU).base_copy == "device"
    monkeypatch.setattr(steps, "available_bytes", lambda _: 1000)
    assert SETUP.recipe(CPU).base_copy == "none"
