from typing import Any

import torch

from falqon_core.contract.config import Recipe
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.estimate.memory import training_memory_bytes, untouched_memory_bytes
from falqon_core.estimate.memory_terms import attention_backward_bytes, sketch_bytes
from falqon_core.meld.convert import target_linears
from falqon_core.meld.init import gradient_sketches
from tests.falqon_core.estimate.test_estimate import SEVEN_B
from tests.falqon_core.meld.models import tiny_model

GB = 10**9
# Narrow MLPs: attention's backward works with the most.
QWEN3_06B = ModelDimensions(
    hidden_size=1024, intermediate_size=3072, num_layers=28, num_heads=16, num_kv_heads=8,
    head_dim=128, vocab_size=151936, max_position_embeddings=40960, tied_embeddings=True,
)  # fmt: skip


def recipe(**arguments: Any) -> Recipe:
    return Recipe.model_validate(arguments).resolved(100)


def test_sketches_take_what_is_planned() -> None:
    model = tiny_model("llama", torch.bfloat16)
    linears = target_linears(model, None)
    with gradient_sketches(model, linears, 3, seed=0) as sketches:
        largest = 2 * 2 * 3 * max(linear.out_features for linear in linears.values())
        actual = sum(sketch.nbytes for sketch in sketches.values()) + largest
    dimensions = ModelDimensions.from_config(model.config.to_dict())
    assert sketch_bytes(dimensions, recipe(rank=3, a_init="gradient")) == actual
    assert sketch_bytes(dimensions, recipe(rank=3, a_init="orthonormal")) == 0


def test_they_are_planned_beside_the_model_while_it_lies_whole_on_the_card() -> None:
    sought = recipe(rank=64, a_init="gradient")
    given = recipe(rank=64, a_init="orthonormal")
    more = untouched_memory_bytes(SEVEN_B, sought) - untouched_memory_bytes(SEVEN_B, given)
    assert more == sketch_bytes(SEVEN_B, sought)
    assert 0.55 * GB < more < 0.6 * GB


def test_few_long_records_need_the_most_in_attentions_backward() -> None:
    """Of 32 heads one record makes six splits, each an fp32 gradient of all queries."""
    tokens = 32768
    long = recipe(max_seq_length=tokens)
    one = attention_backward_bytes(SEVEN_B, long, tokens)
    many = attention_backward_bytes(SEVEN_B, recipe(max_seq_length=2048), tokens)
    assert one - many == 5 * 4 * tokens * 32 * 128


def test_heads_of_an_odd_size_are_filled_up() -> None:
    """12 to 32 elements, in one split of 188 heads."""
    one, filled = (
        attention_backward_bytes(
            SEVEN_B.model_copy(update={"head_dim": size, "num_heads": 188}), recipe(), 2048
        )
        for size in (12, 32)
    )
    others = 2 * 2048 * (4 * 188 * 20 + 2 * 32 * 20)
    assert filled - one == others


def test_a_plan_of_a_gpu_holds_them_where_they_are_the_most() -> None:
    tokens = 32768
    plan = recipe(max_seq_length=tokens, microbatch_tokens=tokens, activation_checkpointing=False)
    flat = QWEN3_06B.model_copy(update={"intermediate_size": 2})
    more = attention_backward_bytes(flat, plan, tokens)
    assert more > 2 * tokens * (6 * 1024 + 4 * 2048 + 4 * 2)
    assert more < training_memory_bytes(flat, plan, False)


def test_a_card_without_fp8_keeps_inputs_in_two_bytes_and_rotates_elsewhere() -> None:
    plan = recipe(
        max_seq_length=1024,
        microbatch_tokens=1024,
        activation_checkpointing=False,
        a_init="orthonormal",
    )
    fp8 = SEVEN_B.model_copy(update={"rotates_in_place": True})
    without = fp8.model_copy(update={"has_fp8": False})
    of_q_and_k = 2 * 2 * 4096
    more = training_memory_bytes(without, plan, False) - training_memory_bytes(fp8, plan, False)
    inputs = 3 * 4096  # of down no A trains unless asked for
    assert more == 32 * 1024 * (inputs + of_q_and_k)
