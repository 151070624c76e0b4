import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falqon_core.contract.config import Recipe
from falqon_core.estimate.memory import (
    MAX_AUTOMATIC_MICROBATCH,
    fit_recipe,
    largest_fitting,
    largest_microbatch_tokens,
    training_memory_bytes,
)
from tests.falqon_core.estimate.test_estimate import SEVEN_B, SMALL

GIB = 2**30


def recipe(**arguments: Any) -> Recipe:
    return Recipe(**arguments).resolved(100)


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
        ceiling = max(length, MAX_AUTOMATIC_MICROBATCH["cpu" if is_cpu else "gpu"])
        assert length <= tokens_fitting <= ceiling
        assert (
            needs(base.model_copy(update={"microbatch_tokens": tokens_fitting}), is_cpu)
            <= num_bytes
        )
        if tokens_fitting < ceiling - 1024:
            assert (
                needs(base.model_copy(update={"microbatch_tokens": tokens_fitting + 1024}), is_cpu)
                > num_bytes
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
    assert (enough.activation_checkpointing, enough.microbatch_tokens) == (False, 2048)
    assert too_little is not None
    assert too_little.activation_checkpointing
    assert too_little.microbatch_tokens == 4096
    assert fit_recipe(SMALL, recipe(activation_checkpointing=False), smallest - 1, True) is None


def test_what_was_asked_for_is_kept() -> None:
    fixed = recipe(microbatch_tokens=3000, activation_checkpointing=True)

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
