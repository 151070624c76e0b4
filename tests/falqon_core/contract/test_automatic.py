import pytest

from falqon_core.contract.config import Recipe


@pytest.mark.parametrize(
    ("num_records", "steps"),
    [
        (40, 10),  # an epoch
        (300, 68),
        (1_000, 225),
        (4_000, 200),  # a sixth of one: an evaluation costs a tenth of 175 steps
        (10_000, 100),
        (100_000, 650),  # the tenth part, at a checkpoint
    ],
)
def test_long_epochs_have_evaluations_within(num_records: int, steps: int) -> None:
    recipe = Recipe().resolved(num_records)
    num_held_out = recipe.num_held_out(num_records)
    num_examples = num_records - num_held_out
    assert recipe.evaluation_steps(num_examples, num_held_out) == steps


def test_evaluations_within_an_epoch_cost_at_most_a_tenth_of_it() -> None:
    recipe = Recipe(batch_size=4).resolved(1_000)
    assert recipe.evaluation_steps(1_000, 10) == 50  # as often as checkpoints
    assert recipe.evaluation_steps(1_000, 100) == 150
    assert recipe.evaluation_steps(1_000, 200) == 250
    assert recipe.evaluation_steps(1_000, 100_000) == 250


def test_a_user_chooses_and_patience_counts_epochs() -> None:
    recipe = Recipe(batch_size=4, early_stopping_patience=2).resolved(1_000)
    assert recipe.evaluation_steps(1_000, 10) == 250
    assert recipe.model_copy(update={"eval_every": 7}).evaluation_steps(1_000, 10) == 7
