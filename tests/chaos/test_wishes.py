"""Users cancel, pause and resume at any moment: what they were promised holds, within seconds, and nothing is left of the trainer."""

import random
import time

from app.jobs.lifecycle import TERMINAL
from app.models import JobStatus
from tests.chaos.conftest import Count
from tests.chaos.fleet import Fleet
from tests.chaos.invariants import check_all
from tests.chaos.scale import SCALE
from tests.support.toy_trainer import Toy

NUM_WORKERS = 3
JOBS_AT_ONCE = 8
TOY = Toy(steps=100, step_seconds=0.02, checkpoint_every=20)
PAUSE_SECONDS = (0.0, 0.5)
HEARD_SECONDS = 10.0  # and a step
WISHES = {"cancel": 1, "pause": 2, "resume": 2}
STOPS = {"cancel": JobStatus.CANCELLED, "pause": JobStatus.PAUSED}


def test_wishes_at_random_times(fleet: Fleet, rng: random.Random, count: Count) -> None:
    house = fleet.house
    granted = dict.fromkeys(WISHES, 0)
    last: dict[str, tuple[str, float]] = {}  # the wish that holds, and since when
    slowest = 0.0
    fleet.start(NUM_WORKERS)
    while granted["cancel"] + granted["pause"] < SCALE.wishes:
        live = [job_id for job_id, status in fleet.statuses().items() if status not in TERMINAL]
        live += fleet.add(*[TOY] * (JOBS_AT_ONCE - len(live)))
        job_id, wish = rng.choice(live), rng.choices(list(WISHES), list(WISHES.values()))[0]
        if fleet.wish(wish, job_id):
            granted[wish] += 1
            last[job_id] = wish, time.monotonic()
        fleet.run_for(rng.uniform(*PAUSE_SECONDS))
        running = [job_id for job_id, status in fleet.statuses().items() if status is JobStatus.RUNNING]
        for job_id, (wish, since) in last.items():
            if wish in STOPS and job_id in running:
                slowest = max(slowest, time.monotonic() - since)
        assert slowest < HEARD_SECONDS, "a wish that nobody hears"
        count(**granted, slowest=round(slowest, 1))
    for job_id, status in fleet.statuses().items():
        if status is JobStatus.PAUSED or (status is JobStatus.RUNNING and last.get(job_id, ("", 0))[0] == "pause"):
            fleet.wish("resume", job_id)
    fleet.drain_queue()
    cancelled = {job_id: JobStatus.CANCELLED for job_id, (wish, _) in last.items() if wish == "cancel"}
    assert house.trainers() == []
    count(**granted, slowest=round(slowest, 1), **check_all(house, fleet.toys, cancelled))
