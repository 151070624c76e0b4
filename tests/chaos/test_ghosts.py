"""Workers and their trainers are frozen past their lease, others end the jobs, and then the ghosts wake up."""

import random

from app.models import JobStatus
from tests.chaos.conftest import Count
from tests.chaos.fleet import Fleet
from tests.chaos.invariants import check_all, state_of
from tests.chaos.scale import SCALE
from tests.support.toy_trainer import Toy

NUM_GHOSTS, NUM_OTHERS = 5, 4
TOY = Toy(steps=100, step_seconds=0.05, checkpoint_every=20)
FROZEN_AFTER = (1.5, 4.0)  # seconds
GONE_SECONDS = 5.0


def test_ghosts_write_nothing(fleet: Fleet, rng: random.Random, count: Count) -> None:
    house, ghosts = fleet.house, 0
    while ghosts < SCALE.ghosts:
        fleet.start(NUM_GHOSTS)
        fleet.run_for(NUM_GHOSTS)
        jobs = fleet.add(*[TOY] * NUM_GHOSTS)
        fleet.run_for(rng.uniform(*FROZEN_AFTER))
        frozen = fleet.freeze()
        held = [job_id for job_id, status in zip(jobs, fleet.of(jobs), strict=True) if status is JobStatus.RUNNING]
        fleet.start(NUM_OTHERS)
        fleet.drain_queue()
        assert all(house.job(job_id).attempt > 1 for job_id in held)
        before = {job_id: state_of(house, job_id) for job_id in jobs}
        fleet.wake(frozen)
        fleet.run_until(lambda: not house.trainers(), GONE_SECONDS, "the ghosts kill their trainers")
        fleet.send_home(frozen)
        assert {job_id: state_of(house, job_id) for job_id in jobs} == before
        ghosts += len(held)
        count(ghosts=ghosts)
    count(ghosts=ghosts, writes=0, **check_all(house, fleet.toys))
