"""Workers and their trainers are frozen past their lease, others end the jobs, and then the zombies
wake up.
"""

import random

from app.models import JobStatus
from tests.chaos.conftest import Count
from tests.chaos.fleet import Fleet
from tests.chaos.invariants import check_all, state_of
from tests.chaos.scale import SCALE, every_run_on
from tests.support.fake_trainer import FakeTrainer

NUM_ZOMBIES = min(5, SCALE.zombies + 1)  # one may not have begun when they freeze
NUM_OTHERS = 4
FAKE = FakeTrainer(steps=100, step_seconds=0.05, checkpoint_every=20)
FROZEN_AFTER = (1.5, 4.0)  # seconds
GONE_SECONDS = 5.0


@every_run_on("postgres")
def test_zombies_write_nothing(fleet: Fleet, rng: random.Random, count: Count) -> None:
    backend = fleet.backend
    zombies = 0
    while zombies < SCALE.zombies:
        fleet.start(NUM_ZOMBIES)
        fleet.run_for(NUM_ZOMBIES)
        jobs = fleet.add(*[FAKE] * NUM_ZOMBIES)
        fleet.run_for(rng.uniform(*FROZEN_AFTER))
        frozen = fleet.freeze()
        running = [
            job_id
            for job_id, status in zip(jobs, fleet.of(jobs), strict=True)
            if status is JobStatus.RUNNING
        ]
        fleet.start(NUM_OTHERS)
        fleet.drain_queue()
        assert all(backend.job(job_id).attempt > 1 for job_id in running)
        before = {job_id: state_of(backend, job_id) for job_id in jobs}
        fleet.wake(frozen)
        fleet.run_until(
            lambda: not backend.trainers(), GONE_SECONDS, "the zombies kill their trainers"
        )
        fleet.send_home(frozen)
        assert {job_id: state_of(backend, job_id) for job_id in jobs} == before
        zombies += len(running)
        count(zombies=zombies)
    count(zombies=zombies, writes=0, **check_all(backend, fleet.fakes))
