"""Workers and trainers die at random times, with more jobs than workers around."""

import os
import random
import signal
from contextlib import suppress

from tests.chaos.conftest import Count
from tests.chaos.fleet import Fleet
from tests.chaos.invariants import check_all
from tests.chaos.scale import SCALE, every_run_on

NUM_WORKERS = 4
PAUSE_SECONDS = (0.1, 0.8)


@every_run_on("sqlite")
def test_killed_at_random(fleet: Fleet, rng: random.Random, count: Count) -> None:
    killed = {"workers": 0, "trainers": 0}
    fleet.start(NUM_WORKERS)
    while sum(killed.values()) < SCALE.kills:
        fleet.top_up(SCALE.jobs_at_once)
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
    count(**killed, **check_all(fleet.backend, fleet.fakes))
    assert fleet.backend.trainers() == []
