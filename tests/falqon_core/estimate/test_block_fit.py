"""Weights in blocks in a plan: models that they fit, and the memory and time that they take."""

from typing import Any

import pytest

from falqon_core.contract.block_weights import BLOCK_SPECS
from falqon_core.contract.config import Recipe
from falqon_core.estimate.block_fit import weights_refusal
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.estimate.memory import placements, plan_memory, training_memory_bytes
from falqon_core.estimate.step_seconds import step_seconds

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}
DIMENSIONS = ModelDimensions.from_config(CONFIG)


def recipe_of(weights: Any, **changes: Any) -> Recipe:
    return Recipe(weights=weights, microbatch_tokens=4096, **changes).resolved(1000)


@pytest.mark.parametrize("weights", BLOCK_SPECS)
def test_blocks_that_do_not_fit_are_named_with_the_forms_that_do(weights: Any) -> None:
    assert weights_refusal(DIMENSIONS, recipe_of(weights)) is None
    odd = ModelDimensions.from_config(CONFIG | {"intermediate_size": 5616})
    refusal = weights_refusal(odd, recipe_of(weights))
    if weights == "nvfp4":
        assert refusal is None
        return
    title = BLOCK_SPECS[weights].title
    assert refusal == (
        f"down_proj has 5616 inputs, no multiple of the 32 weights that a block of {title} has; "
        "take fp8 or nvfp4, or leave it out of target_modules"
    )
    without = recipe_of(weights, target_modules=("q_proj", "v_proj"))
    assert weights_refusal(odd, without) is None


def test_blocks_keep_their_bf16_values_on_every_device() -> None:
    linears = DIMENSIONS.num_linear_parameters
    for is_cpu, base_copy, more in ((True, "device", 0.25), (False, "int8", 1.25)):
        fp8, nvfp4 = (
            training_memory_bytes(DIMENSIONS, recipe_of(each, base_copy=base_copy), is_cpu)
            for each in ("fp8", "nvfp4")
        )
        assert nvfp4 - fp8 >= more * linears
    # An open base copy is at least one in int8 on a card.
    least = training_memory_bytes(DIMENSIONS, recipe_of("nvfp4"), device_is_cpu=False)
    assert least == training_memory_bytes(DIMENSIONS, recipe_of("nvfp4", base_copy="int8"), False)
    # On a card the inputs that backward keeps are bf16, too.
    assert nvfp4 - fp8 > 1.25 * linears


def test_a_plan_has_the_base_on_the_card_and_no_shards() -> None:
    plan = plan_memory(DIMENSIONS, recipe_of("nvfp4"), 40 * 2**30, device_is_cpu=False)
    assert plan is not None
    assert plan.recipe.base_copy in ("int8", "device")
    assert {each.num_shards for each in placements(recipe_of("nvfp4"), False, 4)} == {1}
    assert {each.num_shards for each in placements(recipe_of("fp8"), False, 4)} == {1, 4}


def test_products_in_bf16_take_longer() -> None:
    fp8, nvfp4 = (
        step_seconds(DIMENSIONS, recipe_of(each, base_copy="int8", activation_checkpointing=False))
        for each in ("fp8", "nvfp4")
    )
    assert nvfp4 > fp8
