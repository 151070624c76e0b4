"""Plans of trainings that a device holds only in part."""

import math
from typing import Any

import pytest

from benchmarks.gpu_placements import LLAMA_70B, LONG, QWEN3_8B, QWEN3_14B, QWEN3_32B
from falqon_core.contract.config import Recipe
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.estimate.memory import (
    host_base_bytes,
    plan_memory,
    training_memory_bytes,
)
from falqon_core.estimate.placement import WHOLE, Placement, offloaded_bytes, wire_bytes
from falqon_core.estimate.step_seconds import CARDS, PLANNING_RATES, step_seconds
from tests.falqon_core.trace.cases import usable_on

ON_24_GB = usable_on("RTX 4090")
ON_80_GB = usable_on("H100")


def recipe(**options: Any) -> Recipe:
    return Recipe.model_validate({"batch_size": 16, **options}).resolved(1000)


def test_70b_is_sharded_on_eight_cards_and_fits_on_no_single_one() -> None:
    assert plan_memory(LLAMA_70B, recipe(), ON_80_GB, False) is None
    plan = plan_memory(LLAMA_70B, recipe(), ON_80_GB, False, num_processes=8)
    assert plan is not None
    assert plan.placement == Placement(num_shards=8)
    assert plan.recipe.base_copy == "int8"
    # Its eighth of codes and base, and two layers whole.
    codes = LLAMA_70B.num_linear_parameters
    for shards in (2, 4):
        fewer, more = (
            training_memory_bytes(LLAMA_70B, plan.recipe, False, Placement(num_shards=number))
            for number in (shards, 2 * shards)
        )
        assert fewer - more == pytest.approx(2 * codes / shards - codes / shards)


def test_32k_tokens_of_8b_are_offloaded_on_24_gb() -> None:
    long = recipe(**LONG)
    plan = plan_memory(QWEN3_8B, long, ON_24_GB, False)
    assert plan is not None
    assert plan.placement == Placement(offloads=True)
    assert plan.recipe.microbatch_tokens == 32768
    assert training_memory_bytes(QWEN3_8B, plan.recipe, False) > ON_24_GB
    assert offloaded_bytes(QWEN3_8B, plan.recipe, plan.placement) == 35 * 32768 * 4096 * 2
    without = long.model_copy(update={"activation_checkpointing": False})
    assert plan_memory(QWEN3_8B, without, ON_24_GB, False) is None


@pytest.mark.parametrize("num_processes", [1, 8])
def test_nothing_leaves_a_device_that_holds_it(num_processes: int) -> None:
    plan = plan_memory(QWEN3_8B, recipe(), ON_80_GB, False, num_processes)
    assert plan is not None
    assert plan.placement == WHOLE
    assert wire_bytes(QWEN3_8B, plan.placement, 3) == 0


@pytest.mark.parametrize(
    "options", [{"update_rule": "topk"}, {"base_copy": "none"}, {"method": "lora"}]
)
def test_only_rows_with_a_base_are_sharded(options: dict[str, Any]) -> None:
    assert plan_memory(LLAMA_70B, recipe(**options), ON_80_GB, False, num_processes=8) is None


def test_a_cpu_shards_and_never_offloads() -> None:
    needed = training_memory_bytes(QWEN3_8B, recipe(activation_checkpointing=True), True)
    plan = plan_memory(QWEN3_8B, recipe(), needed - 1, True, num_processes=4)
    assert plan is not None
    assert plan.placement == Placement(num_shards=4)
    assert plan_memory(QWEN3_8B, recipe(), needed - 1, True) is None


def test_a_shard_keeps_its_part_of_a_base_on_the_host() -> None:
    on_host = recipe(base_copy="host")
    whole = host_base_bytes(LLAMA_70B, on_host)
    assert host_base_bytes(LLAMA_70B, on_host, Placement(num_shards=8)) == whole // 8


def test_rows_of_other_cards_arrive_twice_a_pass_but_for_two_layers_at_each_turn() -> None:
    of_layer = LLAMA_70B.num_linear_parameters / 80
    others = wire_bytes(LLAMA_70B, Placement(num_shards=8), 3) / (7 / 8)
    assert others == pytest.approx(of_layer * (3 * 2 * 78 + 2))


def test_copies_hide_behind_computing_until_the_bus_is_too_slow() -> None:
    long = recipe(**LONG, microbatch_tokens=32768, activation_checkpointing=True)
    offloads = Placement(offloads=True)
    hidden = step_seconds(QWEN3_8B, long, PLANNING_RATES)
    assert step_seconds(QWEN3_8B, long, PLANNING_RATES, offloads) == hidden
    slow = PLANNING_RATES._replace(host=1e9)
    one_way = offloaded_bytes(QWEN3_8B, long, offloads) / 1e9
    assert step_seconds(QWEN3_8B, long, slow, offloads) > 2 * one_way


@pytest.mark.parametrize(
    ("dimensions", "options", "fits"),
    [
        (QWEN3_14B, {}, True),
        (QWEN3_32B, {}, False),
        (QWEN3_32B, {"rank": 8, "max_seq_length": 1024}, True),
    ],
)
def test_qlora_on_24_gb(dimensions: ModelDimensions, options: dict[str, Any], fits: bool) -> None:
    plan = plan_memory(dimensions, recipe(method="qlora", **options), ON_24_GB, False)
    assert (plan is not None) == fits


def test_ranks_that_shard_share_the_records() -> None:
    plan = plan_memory(LLAMA_70B, recipe(), ON_80_GB, False, num_processes=8)
    assert plan is not None
    fast = CARDS["H100"]._replace(cards=math.inf)
    alone = step_seconds(LLAMA_70B, plan.recipe, fast)
    assert step_seconds(LLAMA_70B, plan.recipe, fast, plan.placement) < alone / 4
