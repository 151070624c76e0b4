import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falqon_core.contract.config import Recipe
from falqon_core.estimate.adapter import adapter_size
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.estimate.memory import (
    HOST_BLOCK_BYTES,
    MAX_AUTOMATIC_MICROBATCH_TOKENS,
    MICROBATCH_STEP_TOKENS,
    host_base_bytes,
    largest_fitting,
    largest_microbatch_tokens,
    plan_memory,
    training_memory_bytes,
)
from falqon_core.estimate.placement import WHOLE, Placement
from falqon_core.estimate.step_seconds import num_passes, step_seconds
from tests.falqon_core.estimate.test_estimate import SEVEN_B, SMALL

GIB = 2**30
GB = 10**9
THIRTEEN_B = ModelDimensions(
    hidden_size=5120, intermediate_size=13824, num_layers=40, num_heads=40, num_kv_heads=40,
    head_dim=128, vocab_size=32000, max_position_embeddings=4096, tied_embeddings=False,
)  # fmt: skip
KINDS = ("device", "int8", "host", "none")
PUBLISHED: dict[str, Any] = {"rank": 64, "batch_size": 16, "max_seq_length": 528}


def recipe(**arguments: Any) -> Recipe:
    return Recipe(**arguments).resolved(100)


def fit_recipe(
    dimensions: ModelDimensions, resolved: Recipe, num_bytes: float, device_is_cpu: bool
) -> Recipe | None:
    """Return the recipe of a plan that leaves everything on the device."""
    plan = plan_memory(dimensions, resolved, num_bytes, device_is_cpu)
    assert plan is None or plan.placement == WHOLE
    return plan.recipe if plan else None


def needs(resolved: Recipe, is_cpu: bool = True) -> int:
    return training_memory_bytes(SMALL, resolved, is_cpu)


@pytest.mark.parametrize("is_cpu", [True, False])
@given(num_bytes=st.integers(0, 20 * GIB), length=st.integers(8, 8192))
def test_the_largest_microbatch_fits_and_the_next_does_not(
    is_cpu: bool, num_bytes: int, length: int
) -> None:
    base = recipe(max_seq_length=length)
    tokens_fitting = largest_microbatch_tokens(SMALL, base, num_bytes, is_cpu)

    if tokens_fitting is None:
        assert needs(base.model_copy(update={"microbatch_tokens": length}), is_cpu) > num_bytes
    else:
        ceiling = max(length, MAX_AUTOMATIC_MICROBATCH_TOKENS["cpu" if is_cpu else "gpu"])
        assert length <= tokens_fitting <= ceiling
        assert (
            needs(base.model_copy(update={"microbatch_tokens": tokens_fitting}), is_cpu)
            <= num_bytes
        )
        if tokens_fitting <= ceiling - MICROBATCH_STEP_TOKENS:
            next_size = tokens_fitting + MICROBATCH_STEP_TOKENS
            assert (
                needs(base.model_copy(update={"microbatch_tokens": next_size}), is_cpu) > num_bytes
            )


def test_checkpointed_activations_need_less_and_grow_slower() -> None:
    plain, checkpointed = (
        [
            needs(recipe(microbatch_tokens=tokens, activation_checkpointing=on))
            for tokens in (4096, 8192)
        ]
        for on in (False, True)
    )

    assert checkpointed[0] < plain[0]
    assert (checkpointed[1] - checkpointed[0]) < (plain[1] - plain[0]) / 5


def test_activations_are_checkpointed_only_when_nothing_fits_without() -> None:
    smallest = needs(recipe(microbatch_tokens=2048))
    enough = fit_recipe(SMALL, recipe(), smallest, True)
    too_little = fit_recipe(SMALL, recipe(), smallest - 1, True)

    assert enough is not None
    assert not enough.activation_checkpointing
    assert 2048 <= (enough.microbatch_tokens or 0) < 3072
    assert too_little is not None
    assert too_little.activation_checkpointing
    assert too_little.microbatch_tokens == 4096
    assert fit_recipe(SMALL, recipe(activation_checkpointing=False), smallest - 1, True) is None


@pytest.mark.parametrize("gigabytes", [20, 24, 32, 48, 80])
def test_a_gpu_gets_the_placement_of_the_fewest_seconds(gigabytes: int) -> None:
    """Of those that fit; a base on the host costs half a second a step, computing again more."""
    published = recipe(**PUBLISHED)
    chosen = fit_recipe(SEVEN_B, published, 0.9 * gigabytes * GB, False)
    assert chosen is not None
    by_hand = [
        fit_recipe(SEVEN_B, published.model_copy(update=fixed), 0.9 * gigabytes * GB, False)
        for fixed in (
            {"base_copy": base, "activation_checkpointing": again}
            for base in ("int8", "host")
            for again in (False, True)
        )
    ]
    seconds = [step_seconds(SEVEN_B, other) for other in by_hand if other is not None]
    assert step_seconds(SEVEN_B, chosen) == min(seconds)


def test_7b_takes_at_most_six_passes_on_24_gib() -> None:
    llama = SEVEN_B.model_copy(update={"rotates_in_place": True, "has_plain_logits": True})
    chosen = fit_recipe(llama, recipe(**PUBLISHED), 0.9 * 23.5 * GIB, False)
    assert chosen is not None
    assert (chosen.base_copy, chosen.activation_checkpointing) == ("int8", False)
    assert num_passes(chosen) <= 6


def test_requested_memory_settings_are_kept() -> None:
    fixed = recipe(microbatch_tokens=3000, activation_checkpointing=True, base_copy="device")

    assert fit_recipe(SMALL, fixed, math.inf, True) == fixed
    assert fit_recipe(SMALL, fixed, needs(fixed) - 1, True) is None


def test_the_largest_that_fits_gives_up_the_microbatch_first_then_length_then_rank() -> None:
    fixed = recipe(microbatch_tokens=2**20, max_seq_length=4096)
    full = largest_fitting(SMALL, fixed, 100 * GIB, True)
    assert full is not None
    assert (full.rank, full.max_seq_length, full.microbatch_tokens) == (64, 4096, 4096)

    shorter = largest_fitting(
        SMALL, fixed, needs(recipe(max_seq_length=1024, activation_checkpointing=True)), True
    )
    assert shorter is not None
    assert (shorter.rank, shorter.max_seq_length, shorter.activation_checkpointing) == (
        64,
        1024,
        True,
    )

    lower = largest_fitting(
        SMALL, fixed, needs(recipe(rank=8, max_seq_length=256, activation_checkpointing=True)), True
    )
    assert lower is not None
    assert lower.rank < 64
    assert largest_fitting(SEVEN_B, fixed, GIB, True) is None


def test_the_base_on_a_gpu_has_eight_bits_and_moves_to_the_host_when_memory_is_short() -> None:
    def fitted(num_bytes: float, **options: Any) -> tuple[str | None, bool | None]:
        chosen = fit_recipe(SMALL, recipe(**options), num_bytes, False)
        assert chosen is not None
        return chosen.base_copy, chosen.activation_checkpointing

    smallest = recipe(base_copy="int8", activation_checkpointing=True, microbatch_tokens=2048)
    enough = needs(smallest, is_cpu=False)

    assert fitted(math.inf) == ("int8", False)
    assert fitted(enough) == ("int8", True)
    assert fitted(enough - 1)[0] == "host"
    assert fitted(math.inf, base_copy="device")[0] == "device"
    assert fitted(math.inf, update_rule="topk")[0] is None
    on_cpu = fit_recipe(SMALL, recipe(), math.inf, True)
    assert on_cpu is not None
    assert on_cpu.base_copy == "device"


def test_another_place_of_the_base_is_tried_before_anything_smaller() -> None:
    chosen = recipe(base_copy="device", microbatch_tokens=2048, activation_checkpointing=True)
    num_bytes = training_memory_bytes(SMALL, chosen, False, Placement(offloads=True)) - 1

    assert fit_recipe(SMALL, chosen, num_bytes, False) is None
    largest = largest_fitting(SMALL, chosen, num_bytes, False)
    assert largest is not None
    assert (largest.base_copy, largest.rank, largest.max_seq_length) == ("int8", 64, 2048)


def test_a_base_takes_what_its_form_says() -> None:
    fixed: dict[str, Any] = {
        "microbatch_tokens": 2048,
        "activation_checkpointing": True,
        "a_init": "orthonormal",
        "train_a": False,
    }

    def weight_bytes(is_cpu: bool) -> list[float]:
        sizes = [needs(recipe(**fixed, base_copy=kind), is_cpu) for kind in KINDS]
        return [(size - sizes[-1]) / SMALL.num_linear_parameters for size in sizes]

    buffers = 2 * HOST_BLOCK_BYTES / SMALL.num_linear_parameters
    assert weight_bytes(is_cpu=False) == [2, 1, buffers, 0]
    assert weight_bytes(is_cpu=True) == [2, 1, 2, 0]
    assert host_base_bytes(SMALL, recipe(base_copy="host")) == 2 * SMALL.num_linear_parameters
    assert host_base_bytes(SMALL, recipe(base_copy="int8")) == 0


@pytest.mark.parametrize(
    ("dimensions", "base_copy"), [(SEVEN_B, "int8"), (THIRTEEN_B, "none"), (THIRTEEN_B, None)]
)
def test_the_published_step_fits_into_22_gigabytes(
    dimensions: ModelDimensions, base_copy: str | None
) -> None:
    """16 x 528 tokens at rank 64: 7B with its base in eight bits in one microbatch, 13B without one
    and with one in host memory in several.
    """
    fitted = fit_recipe(dimensions, recipe(**PUBLISHED, base_copy=base_copy), 22 * GB, False)
    assert fitted is not None
    whole = fitted.model_copy(
        update={"microbatch_tokens": 16 * 528, "activation_checkpointing": True}
    )

    assert fitted.base_copy == (base_copy or "host")
    assert training_memory_bytes(dimensions, fitted, False) <= 22 * GB
    assert (training_memory_bytes(dimensions, whole, False) <= 22 * GB) == (dimensions is SEVEN_B)


def test_the_default_recipe_of_7b_is_accepted_on_24_gib() -> None:
    fitted = fit_recipe(SEVEN_B, recipe(), 0.9 * 23.5 * GIB, False)

    assert fitted is not None
    assert (fitted.rank, fitted.max_seq_length, fitted.base_copy) == (64, 2048, "int8")


@pytest.mark.parametrize("is_cpu", [True, False])
@pytest.mark.parametrize("train_a", [True, None])
def test_an_a_that_trains_takes_its_state_and_what_linears_read(
    train_a: bool | None, is_cpu: bool
) -> None:
    """Which is bf16 on a CPU, and a byte an element on a GPU; left open not of down."""
    frozen = recipe(
        a_init="orthonormal", max_seq_length=1024, microbatch_tokens=1024, train_a=False
    )
    trained = frozen.model_copy(update={"train_a": train_a})
    of_down = SMALL.intermediate_size if train_a else 0
    inputs = 2 * SMALL.hidden_size + SMALL.num_heads * SMALL.head_dim + of_down
    a_elements = SMALL.num_layers * frozen.rank * (inputs + 3 * SMALL.hidden_size)
    kept = SMALL.num_layers * inputs * (2 if is_cpu else 1) * 1024
    assert needs(trained, is_cpu) - needs(frozen, is_cpu) == 16 * a_elements + kept


def test_with_checkpointed_activations_one_layer_keeps_what_its_linears_read() -> None:
    fixed = {"max_seq_length": 1024, "microbatch_tokens": 1024, "a_init": "orthonormal"}
    sizes = []
    for layers in (1, 2):
        dimensions = SMALL.model_copy(update={"num_layers": layers})
        by_a = [
            training_memory_bytes(
                dimensions,
                recipe(**fixed, activation_checkpointing=True, train_a=train_a),
                device_is_cpu=True,
            )
            for train_a in (False, True)
        ]
        sizes.append(
            by_a[1] - by_a[0] - 16 * adapter_size(dimensions, recipe(train_a=True)).trained_a
        )
    assert sizes[0] == sizes[1] > 0
