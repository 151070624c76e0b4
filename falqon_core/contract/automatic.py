"""Automatic epochs, held-out records and evaluations, by the size of the training file.

Epochs follow the rule that OpenAI publishes with its guide to fine-tuning: three, fewer where that
would be more than 25,000 examples, and more where it would be few, here counted in steps: 10
records get 10 epochs, 10,000 get 2 and 100,000 get 1.
"""

import math

USUAL_EPOCHS = 3
MAX_EPOCHS = 10  # of a small file
MIN_STEPS = 100  # of a small file, as far as `MAX_EPOCHS` allows
MAX_EXAMPLES = 25_000  # of all epochs, where one epoch is not more already
HELD_OUT_SHARE = 0.1
MAX_HELD_OUT = 200
MIN_RECORDS = 50  # of a file of which some are held out
MAX_EVALUATIONS = 10  # of an epoch
EVALUATION_SHARE = 0.1  # of the training's time, for those within an epoch
EVALUATION_COST = 1 / 2  # of a record's training, which computes no gradient of the base


def automatic_epochs(num_examples: int, batch_size: int) -> int:
    """Return the passes over `num_examples` training examples in steps of `batch_size`."""
    steps_of_epoch = math.ceil(num_examples / batch_size)
    enough = min(MAX_EPOCHS, math.ceil(MIN_STEPS / max(1, steps_of_epoch)))
    most = max(1, MAX_EXAMPLES // max(1, num_examples))
    return min(most, max(USUAL_EPOCHS, enough))


def automatic_fraction(num_records: int) -> float:
    """Return the share of a file of `num_records` that is held out for validation."""
    return min(HELD_OUT_SHARE, MAX_HELD_OUT / max(1, num_records))


def num_held_out(num_records: int, fraction: float) -> int:
    """Count the records that are held out of `num_records`: at least one where there is a
    fraction.
    """
    return max(1, round(fraction * num_records)) if fraction > 0 else 0


def automatic_evaluation_steps(
    num_examples: int, batch_size: int, num_validation_examples: int, min_steps: int
) -> int:
    """Return the steps from one evaluation to the next: an epoch, or a part of it that takes ten
    times as long as an evaluation and is a multiple of `min_steps`.
    """
    steps_of_epoch = max(1, math.ceil(num_examples / batch_size))
    cost = EVALUATION_COST * num_validation_examples / batch_size
    shortest = max(min_steps, math.ceil(cost / EVALUATION_SHARE))
    num_parts = min(MAX_EVALUATIONS, steps_of_epoch // shortest)
    if num_parts < 2:
        return steps_of_epoch
    return min_steps * math.ceil(steps_of_epoch / num_parts / min_steps)
