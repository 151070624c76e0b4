import pytest

from falqon_core.contract.config import Recipe


@pytest.mark.parametrize(
    ("num_records", "steps"),
    [
        (40, 10),  # an epoch
        (300, 68),
        (1_000, 113),  # half of one
        (10_000, 62),  # a tenth
        (100_000, 624),
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
    assert recipe.evaluation_steps(1_000, 300) == 250
    assert recipe.evaluation_steps(1_000, 100_000) == 250
    assert recipe.model_copy(update={"eval_every": 7}).evaluation_steps(1_000, 100_000) == 7
