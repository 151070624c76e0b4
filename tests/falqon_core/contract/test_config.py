import locale
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from falqon_core.contract.config import (
    ANCHORED_LEARNING_RATE,
    PUBLISHED_LEARNING_RATE,
    PUBLISHED_NUM_UPDATE_ROWS,
    Recipe,
    TrainConfig,
    read_old_recipe,
)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"update_rule": "topk", "alpha": 16.0}, "alpha: update_rule 'topk'"),
        ({"num_update_rows": 10}, "num_update_rows: only update_rule 'topk'"),
        ({"update_rule": "topk", "base_copy": "host"}, "base_copy: update_rule 'topk'"),
        ({"update_rule": "topk", "weight_decay": 0.1}, "weight_decay: without a base"),
        ({"base_copy": "none", "weight_decay": 0.1}, "weight_decay: without a base"),
        ({"base_copy": "none", "train_a": True}, "train_a: without a base"),
        ({"method": "lora", "train_a": True}, "train_a: method 'lora' does not have it"),
        ({"method": "qlora", "weights": "nvfp4"}, "weights: method 'qlora' does not have it"),
        ({"weights": "nvfp4", "update_rule": "topk"}, "update_rule: 'topk' has one scale"),
        ({"weights": "q4_0", "base_copy": "none"}, "base_copy: 'none' rebuilds FP8 rows"),
        ({"weights": "q4_0", "base_copy": "host"}, "base_copy: 'host' rebuilds FP8 rows"),
        ({"weights": "mxfp4", "simulate_fp8": True}, "simulate_fp8: with weights in MXFP4"),
        ({"weights": "q4_k"}, "weights"),
        (
            {"max_seq_length": 512, "microbatch_tokens": 256},
            "microbatch_tokens: must be at least max_seq_length",
        ),
        (
            {"objective": "dpo", "max_seq_length": 512, "microbatch_tokens": 1023},
            "microbatch_tokens: must be at least twice max_seq_length",
        ),
        ({"beta": 0.1}, "beta: only method 'dpo' has it"),
        ({"objective": "dpo", "beta": 0.0}, "beta"),
        ({"target_modules": ()}, "target_modules: name at least one"),
        ({"rank": 0}, "rank"),
        ({"rank": 2000}, "rank"),
        ({"alpha": 0.0}, "alpha"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"max_grad_norm": float("inf")}, "max_grad_norm"),
        ({"warmup_ratio": 1.0}, "warmup_ratio"),
        ({"num_epochs": 0}, "num_epochs"),
        ({"max_steps": 0}, "max_steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"validation_fraction": 0.6}, "validation_fraction"),
        ({"keep_checkpoints": 1}, "keep_checkpoints"),
        ({"early_stopping_patience": 0}, "early_stopping_patience"),
        ({"num_samples": 9}, "num_samples"),
        ({"sample_tokens": 513}, "sample_tokens"),
        ({"update_rule": "other"}, "update_rule"),
        ({"lora_dropout": 0.1}, "lora_dropout"),
    ],
)
def test_an_impossible_recipe_is_refused(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        Recipe(**arguments)


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Recipe().rank = 8  # type: ignore[misc]


recipes = st.builds(
    Recipe,
    objective=st.sampled_from(["supervised", "dpo"]),
    rank=st.integers(1, 1024),
    update_rule=st.sampled_from(["anchored", "topk"]),
    num_epochs=st.none() | st.integers(1, 50),
    max_steps=st.none() | st.integers(1, 1000),
    batch_size=st.none() | st.integers(1, 64),
    learning_rate=st.none() | st.floats(1e-6, 1e-2),
    max_seq_length=st.integers(8, 8192),
)


@given(recipes, st.integers(1, 10**6))
def test_resolving_twice_changes_nothing(recipe: Recipe, num_records: int) -> None:
    once = recipe.resolved(num_records, learning_rate_multiplier=0.5)

    assert once.resolved(num_records, learning_rate_multiplier=0.5) == once
    assert Recipe.model_validate_json(once.model_dump_json()) == once


@given(recipes, st.integers(1, 10**6))
def test_resolving_keeps_what_was_asked_for(recipe: Recipe, num_records: int) -> None:
    resolved = recipe.resolved(num_records)

    requested = recipe.model_dump(exclude_unset=True, exclude_none=True)
    assert resolved.model_dump(include=set(requested)) == requested
    assert None not in (resolved.num_epochs, resolved.batch_size, resolved.learning_rate)
    assert resolved.microbatch_tokens == recipe.microbatch_tokens, (
        "only a device's memory decides it"
    )


def test_every_update_rule_has_its_defaults() -> None:
    anchored = Recipe(rank=32).resolved(1000)
    topk = Recipe(rank=32, update_rule="topk").resolved(1000)

    assert (anchored.alpha, anchored.num_update_rows, anchored.learning_rate) == (
        32.0,
        None,
        ANCHORED_LEARNING_RATE["gradient"],
    )
    assert (
        Recipe(a_init="orthonormal").resolved(1000).learning_rate
        == ANCHORED_LEARNING_RATE["orthonormal"]
    )
    assert (anchored.a_init, topk.a_init) == ("gradient", "quant_error")
    assert (anchored.base_copy, topk.base_copy) == (None, None), "memory decides"
    assert (topk.alpha, topk.num_update_rows, topk.learning_rate) == (
        None,
        PUBLISHED_NUM_UPDATE_ROWS,
        PUBLISHED_LEARNING_RATE,
    )


def test_preferences_have_defaults_of_their_own() -> None:
    supervised = Recipe(max_seq_length=4096).resolved(100)
    dpo = Recipe(objective="dpo", max_seq_length=4096).resolved(100)

    assert (supervised.beta, dpo.beta) == (None, 0.1)
    assert supervised.learning_rate is not None
    assert dpo.learning_rate is not None
    assert 5e-5 <= dpo.learning_rate < supervised.learning_rate
    assert (supervised.longest_record, dpo.longest_record) == (4096, 8192)


def test_the_multiplier_scales_the_automatic_rate_only() -> None:
    assert (
        Recipe().resolved(100, learning_rate_multiplier=0.5).learning_rate
        == ANCHORED_LEARNING_RATE["gradient"] / 2
    )
    assert (
        Recipe(learning_rate=1e-4).resolved(100, learning_rate_multiplier=0.5).learning_rate == 1e-4
    )


@pytest.mark.parametrize(
    ("num_records", "batch_size"), [(1, 4), (2000, 4), (5000, 10), (10**6, 16)]
)
def test_batch_size_follows_the_records(num_records: int, batch_size: int) -> None:
    assert Recipe().resolved(num_records).batch_size == batch_size


@pytest.mark.parametrize(
    ("num_records", "num_epochs", "num_steps"),
    [
        (1, 10, 10),
        (10, 10, 30),
        (48, 9, 108),
        (50, 9, 108),
        (300, 3, 204),
        (10_000, 2, 1226),
        (100_000, 1, 6238),
    ],
)
def test_epochs_follow_the_records(num_records: int, num_epochs: int, num_steps: int) -> None:
    """OpenAI's rule, and a hundred steps where ten epochs have them."""
    recipe = Recipe().resolved(num_records)

    assert recipe.num_epochs == num_epochs
    assert recipe.num_steps(num_records - recipe.num_held_out(num_records)) == num_steps


def test_epochs_of_long_texts_follow_their_sequences() -> None:
    assert Recipe().resolved(1, num_examples=30_000).num_epochs == 1


@pytest.mark.parametrize(
    ("num_records", "held_out"),
    [(1, 0), (49, 0), (50, 5), (162, 16), (2000, 200), (10**6, 200)],
)
def test_a_tenth_is_held_out_within_limits(num_records: int, held_out: int) -> None:
    assert Recipe().resolved(num_records).num_held_out(num_records) == held_out
    no = Recipe(validation_fraction=0.0).resolved(num_records)
    by_file = Recipe().resolved(num_records, has_validation_file=True)
    assert no.validation_fraction == by_file.validation_fraction == 0


def test_early_stopping_holds_out_of_small_files_too() -> None:
    assert Recipe(early_stopping_patience=2).resolved(20).num_held_out(20) == 2


def test_recipes_of_earlier_versions_keep_their_held_out_records() -> None:
    stored = Recipe(seed=5, validation_fraction=0.2).resolved(100).model_dump()
    assert read_old_recipe(stored) == stored
    del stored["validation_seed"]
    assert read_old_recipe(stored)["validation_seed"] == 5


@pytest.mark.parametrize(("max_steps", "steps"), [(None, 9), (5, 5), (100, 9)])
def test_steps_are_epochs_of_full_batches_and_a_rest(max_steps: int | None, steps: int) -> None:
    recipe = Recipe(batch_size=4, num_epochs=3, max_steps=max_steps).resolved(10)

    assert recipe.num_steps(10) == steps


def test_a_recipe_has_one_source_of_validation_data() -> None:
    paths = {"model": Path("m"), "train_file": Path("t"), "validation_file": Path("v")}

    assert TrainConfig(**paths).recipe == Recipe()
    with pytest.raises(
        ValidationError, match="validation_fraction: there is a validation_file already"
    ):
        TrainConfig(**paths, recipe=Recipe(validation_fraction=0.1))


def test_early_stopping_needs_validation_data() -> None:
    paths = {"model": Path("m"), "train_file": Path("t")}
    recipe = Recipe(early_stopping_patience=2, validation_fraction=0.0)

    with pytest.raises(ValidationError, match="early_stopping_patience: needs validation data"):
        TrainConfig(**paths, recipe=recipe)
    assert TrainConfig(**paths, validation_file=Path("v"), recipe=recipe).recipe == recipe


def test_speeds_of_weights_in_blocks_are_kept_apart() -> None:
    assert Recipe(weights="nvfp4").kind == "falqon+nvfp4"
    assert Recipe(weights="nvfp4", objective="dpo").kind == "falqon+nvfp4+dpo"
    assert Recipe(objective="dpo").kind == "dpo"


def test_an_older_recipe_has_weights_in_fp8() -> None:
    stored = Recipe().model_dump()
    del stored["weights"]
    assert Recipe.model_validate(stored) == Recipe()


def test_a_configuration_is_written_in_utf8_in_every_locale(tmp_path: Path) -> None:
    config = TrainConfig(model=Path("größe"), train_file=Path("日本語.jsonl"), base_model_name="π")
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    try:
        config.write(tmp_path / "config.json")
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    assert TrainConfig.model_validate_json((tmp_path / "config.json").read_bytes()) == config
