"""Workers and trainers die at random times, with more jobs than workers around."""

import os
import random
import signal
from contextlib import suppress

from tests.chaos.conftest import Count
from tests.chaos.fleet import Fleet
from tests.chaos.invariants import check_all
from tests.chaos.scale import SCALE

NUM_WORKERS = 4
JOBS_AT_ONCE = 20
PAUSE_SECONDS = (0.1, 0.8)


def test_killed_at_random(fleet: Fleet, rng: random.Random, count: Count) -> None:
    killed = {"workers": 0, "trainers": 0}
    fleet.start(NUM_WORKERS)
    while sum(killed.values()) < SCALE.kills:
        fleet.top_up(JOBS_AT_ONCE)
        fleet.run_for(rng.uniform(*PAUSE_SECONDS))
        if rng.random() < 0.5:
            fleet.kill_worker()
            killed["workers"] += 1
        elif (pid := fleet.trainer()) is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed["trainers"] += 1
        count(**killed)
    fleet.drain_queue()
    count(**killed, **check_all(fleet.house, fleet.toys))
    assert fleet.house.trainers() == []
