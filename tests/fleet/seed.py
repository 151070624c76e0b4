"""What a scenario leaves to chance."""

import os
import random
import sys

from tests.chaos.conftest import SEED


def new_seed() -> tuple[int, random.Random]:
    """Print the seed at once, so that a scenario that fails can be played again."""
    seed = int(os.environ.get(SEED) or random.SystemRandom().randrange(10**9))
    sys.stderr.write(f"{SEED}={seed}\n")
    return seed, random.Random(seed)
