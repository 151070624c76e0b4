import os
import random
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from tests.chaos.fleet import Fleet
from tests.chaos.summary import COUNTS
from tests.support.backend import Backend
from tests.support.fixtures import backend as backend

Count = Callable[..., None]
SEED = "CHAOS_SEED"


@pytest.fixture
def seed() -> int:
    """Of everything that a test leaves to chance. `CHAOS_SEED` plays one again."""
    return int(os.environ.get(SEED) or random.SystemRandom().randrange(10**9))


@pytest.fixture
def rng(seed: int) -> random.Random:
    return random.Random(seed)


@pytest.fixture
def fleet(backend: Backend, rng: random.Random) -> Iterator[Fleet]:
    """Faults are many, so it takes more of them than usual to give a job up."""
    backend.settings = backend.settings.model_copy(
        update={"max_infra_failures": 1_000, "hang": timedelta(seconds=10)}
    )
    fleet = Fleet(backend, rng)
    yield fleet
    fleet.close()


@pytest.fixture
def count(
    request: pytest.FixtureRequest, seed: int, record_property: Callable[[str, object], None]
) -> Iterator[Count]:
    """`count(kills=50, lost=0)`: what a test saw, printed below the results whether it passed or
    not.
    """
    totals: dict[str, object] = {}
    yield lambda **counts: totals.update(counts)
    record_property(
        COUNTS,
        " ".join(
            [
                f"{request.node.name}:",
                *(f"{name}={value}" for name, value in totals.items()),
                f"{SEED}={seed}",
            ]
        ),
    )
