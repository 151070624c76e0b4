import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falqon_core.contract.config import Recipe
from falqon_core.estimate.memory import MAX_AUTOMATIC_MICROBATCH, fitted, largest_fitting, largest_microbatch_tokens, training_memory_bytes
from tests.falqon_core.estimate.test_estimate import SEVEN_B, SMALL

GIB = 2**30


def recipe(**arguments: Any) -> Recipe:
    return Recipe(**arguments).resolved(100)


def needs(one: Recipe, is_cpu: bool = True) -> int:
    return training_memory_bytes(SMALL, one, is_cpu)


@pytest.mark.parametrize("is_cpu", [True, False])
@given(num_bytes=st.integers(0, 20 * GIB), length=st.integers(8, 8192))
def test_the_largest_microbatch_fits_and_the_next_does_not(is_cpu: bool, num_bytes: int, length: int) -> None:
    one = recipe(max_seq_length=length)
    found = largest_microbatch_tokens(SMALL, one, num_bytes, is_cpu)

    if found is None:
        assert needs(one.model_copy(update={"microbatch_tokens": length}), is_cpu) > num_bytes
    else:
        ceiling = max(length, MAX_AUTOMATIC_MICROBATCH["cpu" if is_cpu else "gpu"])
        assert length <= found <= ceiling
        assert needs(one.model_copy(update={"microbatch_tokens": found}), is_cpu) <= num_bytes
        if found < ceiling - 1024:
            assert needs(one.model_copy(update={"microbatch_tokens": found + 1024}), is_cpu) > num_bytes


def test_checkpointed_activations_need_less_and_grow_slower() -> None:
    kept, again = (
        [needs(recipe(microbatch_tokens=tokens, activation_checkpointing=on)) for tokens in (4096, 8192)] for on in (False, True)
    )

    assert again[0] < kept[0]
    assert (again[1] - again[0]) < (kept[1] - kept[0]) / 5


def test_activations_are_checkpointed_only_when_nothing_fits_without() -> None:
    smallest = needs(recipe(microbatch_tokens=2048))
    enough, too_little = fitted(SMALL, recipe(), smallest, True), fitted(SMALL, recipe(), smallest - 1, True)

    assert enough is not None
    assert (enough.activation_checkpointing, enough.microbatch_tokens) == (False, 2048)
    assert too_little is not None
    assert too_little.activation_checkpointing
    assert too_little.microbatch_tokens == 4096
    assert fitted(SMALL, recipe(activation_checkpointing=False), smallest - 1, True) is None


def test_what_was_asked_for_is_kept() -> None:
    asked = recipe(microbatch_tokens=3000, activation_checkpointing=True)

    assert fitted(SMALL, asked, math.inf, True) == asked
    assert fitted(SMALL, asked, needs(asked) - 1, True) is None


def test_the_largest_that_fits_gives_up_the_microbatch_first_then_length_then_rank() -> None:
    asked = recipe(microbatch_tokens=2**20, max_seq_length=4096)
    full = largest_fitting(SMALL, asked, 100 * GIB, True)
    assert full is not None
    assert (full.rank, full.max_seq_length, full.microbatch_tokens) == (64, 4096, 4096)

    shorter = largest_fitting(SMALL, asked, needs(recipe(max_seq_length=1024, activation_checkpointing=True)), True)
    assert shorter is not None
    assert (shorter.rank, shorter.max_seq_length, shorter.activation_checkpointing) == (64, 1024, True)

    lower = largest_fitting(SMALL, asked, needs(recipe(rank=8, max_seq_length=256, activation_checkpointing=True)), True)
    assert lower is not None
    assert lower.rank < 64
    assert largest_fitting(SEVEN_B, asked, GIB, True) is None
