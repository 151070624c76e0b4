"""A step of the CUDA path on a machine without a GPU: traced, in a process of its own.

What a kernel or a GEMM may not be given fails the trace itself (`ledger.py`, `launches.py`). Here
are the figures of Llama-7B, 16 records of at most 528 tokens, rank 64, for all 32 layers.
"""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from falqon_core.bench.model import dimensions_of, llama_7b
from falqon_core.estimate.step_seconds import CARDS, num_passes, step_seconds
from tests.falqon_core.trace.cases import (
    CASES,
    FREE_GIB,
    MEMORY_CASES,
    OTHERS,
    PLANNED,
    planned_recipe,
    usable_on,
)

# Launches of a step and GB that everything but GEMMs moves. They may only fall: write down what
# `python -m tests.falqon_core.trace` prints.
BUDGETS = {
    "padded, anchored": (1764, 167.1),
    "padded, none": (1482, 158.7),
    "padded, topk": (2154, 153.3),
    "packed, anchored": (1807, 89.1),
    "packed, none": (1525, 80.7),
    "packed, topk": (2197, 75.3),
    "padded, anchored, A frozen": (1258, 164.9),
    "padded, anchored, all A train": (1860, 167.8),
    "padded, anchored, recompute": (2148, 227.1),
    "padded, anchored, dpo": (1831, 167.1),
    "packed, anchored, dpo": (1874, 89.1),
    "padded, anchored, 4 microbatches": (6576, 212.6),
    "padded, none, recompute, 13B, 2 microbatches": (4346, 378.2),
    "Qwen3-30B-A3B": (7881, 779.2),
    "Qwen3.5-9B": (70477, 1171.2),
}
# Of what a training plans on an empty card: passes, launches, and hundredths of a second on paper
# at the card's rates.
PLAN_BUDGETS = {
    "RTX 4090": (4, 6576, 118),
    "RTX 5090": (2, 3361, 76),
    "L40S": (1, 1764, 85),
    "H100": (1, 1764, 30),
}
# to read the loss, the norm of the gradient and how many codes changed; of a mixture its load, too
WAITS = 3


@pytest.fixture(scope="module")
def traced() -> dict[str, dict[str, Any]]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.falqon_core.trace"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    figures: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return figures


@pytest.mark.parametrize("name", CASES | OTHERS)
def test_launches_and_traffic_stay_within_what_was_reached(
    name: str, traced: dict[str, dict[str, Any]]
) -> None:
    launches, gigabytes = BUDGETS[name]
    assert traced[name]["launches"] <= launches
    assert traced[name]["other_bytes"] <= gigabytes * 1e9


def test_a_step_waits_for_the_device_only_at_its_end(traced: dict[str, dict[str, Any]]) -> None:
    waits = dict.fromkeys(MEMORY_CASES | PLANNED, WAITS) | {"Qwen3-30B-A3B": WAITS + 1}
    assert {name: figures["waits"] for name, figures in traced.items()} == waits


@pytest.mark.parametrize("card", FREE_GIB)
def test_a_plan_takes_no_more_passes_launches_and_seconds_than_was_reached(
    card: str, traced: dict[str, dict[str, Any]]
) -> None:
    passes, launches, hundredths = PLAN_BUDGETS[card]
    assert traced[card]["passes"] == num_passes(planned_recipe(card)) <= passes
    assert traced[card]["launches"] <= launches
    assert seconds_on(card, traced[card]) <= hundredths / 100
    assert traced[card]["peak_bytes"] <= usable_on(card)


@pytest.mark.parametrize("ending", ["", ", A frozen"])
@pytest.mark.parametrize("card", FREE_GIB)
def test_the_planner_predicts_the_seconds_of_the_traced_step(
    card: str, ending: str, traced: dict[str, dict[str, Any]]
) -> None:
    recipe = planned_recipe(card, **({"train_a": False} if ending else {}))
    predicted = step_seconds(dimensions_of(llama_7b()), recipe, CARDS[card])
    assert predicted == pytest.approx(seconds_on(card, traced[f"{card}{ending}"]), rel=0.05)


def test_the_planner_predicts_what_computing_again_costs(
    traced: dict[str, dict[str, Any]],
) -> None:
    recipe = CASES["padded, anchored, recompute"].recipe
    predicted = step_seconds(dimensions_of(llama_7b()), recipe)
    expected = seconds_on("RTX 4090", traced["padded, anchored, recompute"])
    assert predicted == pytest.approx(expected, rel=0.05)


def seconds_on(card: str, figures: dict[str, Any]) -> float:
    seconds: float = figures["seconds"][card]
    return seconds


def test_the_gemms_of_a_step_are_those_of_the_method(traced: dict[str, dict[str, Any]]) -> None:
    """Two FP8 GEMMs over every linear weight, one over A, the head's two, and the gradients of what
    trains.
    """
    tokens, labels = 16 * 528, 16 * 527
    rank, layers = 64, 32
    linear, head = layers * (4 * 4096**2 + 3 * 4096 * 11008), 4096 * 32000
    a = layers * rank * (6 * 4096 + 11008)
    b = layers * rank * (5 * 4096 + 2 * 11008)
    # the first layer's grad_input of q, k and v is never needed
    unneeded = 3 * 4096**2
    flops = 2 * tokens * (2 * linear + a + b - unneeded) + 4 * labels * head
    assert traced["padded, anchored, A frozen"]["gemm_flops"] == pytest.approx(flops, rel=1e-3)
    # where A trains, everywhere but in down: dy B, with zeros for the other linears of a group,
    # and its product with x
    through_b = layers * rank * (3 * 3 * 4096 + 4096 + 2 * 2 * 11008)
    of_a = a - layers * rank * 11008
    assert traced["padded, anchored"]["gemm_flops"] == pytest.approx(
        flops + 2 * tokens * (through_b + of_a), rel=1e-3
    )


def test_recomputing_launches_more_and_keeps_less(traced: dict[str, dict[str, Any]]) -> None:
    plain, recompute = (traced[f"padded, anchored{end}"] for end in ("", ", recompute"))
    assert recompute["launches"] > plain["launches"]
    assert recompute["peak_bytes"] < 0.6 * plain["peak_bytes"]


@pytest.mark.parametrize("name", MEMORY_CASES)
def test_memory_is_planned_at_the_traced_peak_or_a_tenth_above(
    name: str, traced: dict[str, dict[str, Any]]
) -> None:
    figures = traced[name]
    assert figures["peak_bytes"] <= figures["estimated_bytes"] <= 1.1 * figures["peak_bytes"]


@pytest.mark.parametrize(
    "name", ["padded, anchored, recompute", "padded, none, recompute, 13B, 2 microbatches"]
)
def test_the_published_step_peaks_below_22_gigabytes(
    name: str, traced: dict[str, dict[str, Any]]
) -> None:
    assert traced[name]["peak_bytes"] <= 22e9
