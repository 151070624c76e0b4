"""Users cancel, pause and resume at any moment: what they were promised holds, within seconds, and
nothing is left of the trainer.
"""

import random
import time

from app.models import JobStatus
from app.models.job_lifecycle import TERMINAL
from tests.chaos.conftest import Count
from tests.chaos.fleet import Fleet
from tests.chaos.invariants import check_all
from tests.chaos.scale import SCALE, every_run_on
from tests.support.fake_trainer import FakeTrainer

NUM_WORKERS = 3
JOBS_AT_ONCE = 8
FAKE = FakeTrainer(steps=100, step_seconds=0.02, checkpoint_every=20)
PAUSE_SECONDS = (0.0, 0.5)
HEARD_SECONDS = 10.0  # and a step
REQUESTS = {"cancel": 1, "pause": 2, "resume": 2}
STOPS = {"cancel": JobStatus.CANCELLED, "pause": JobStatus.PAUSED}


@every_run_on("postgres")
def test_stop_requests_at_random_times(fleet: Fleet, rng: random.Random, count: Count) -> None:
    backend = fleet.backend
    granted = dict.fromkeys(REQUESTS, 0)
    last: dict[str, tuple[str, float]] = {}  # the request that holds, and since when
    slowest = 0.0
    fleet.start(NUM_WORKERS)
    while granted["cancel"] + granted["pause"] < SCALE.stop_requests:
        live = [job_id for job_id, status in fleet.statuses().items() if status not in TERMINAL]
        live += fleet.add(*[FAKE] * (JOBS_AT_ONCE - len(live)))
        job_id = rng.choice(live)
        action = rng.choices(list(REQUESTS), list(REQUESTS.values()))[0]
        if fleet.request(action, job_id):
            granted[action] += 1
            last[job_id] = action, time.monotonic()
        fleet.run_for(rng.uniform(*PAUSE_SECONDS))
        running = [
            job_id for job_id, status in fleet.statuses().items() if status is JobStatus.RUNNING
        ]
        for job_id, (action, since) in last.items():
            if action in STOPS and job_id in running:
                slowest = max(slowest, time.monotonic() - since)
        assert slowest < HEARD_SECONDS, "a request that nobody hears"
        count(**granted, slowest=round(slowest, 1))
    for job_id, status in fleet.statuses().items():
        if status is JobStatus.PAUSED or (
            status is JobStatus.RUNNING and last.get(job_id, ("", 0))[0] == "pause"
        ):
            fleet.request("resume", job_id)
    fleet.drain_queue()
    cancelled = {
        job_id: JobStatus.CANCELLED for job_id, (action, _) in last.items() if action == "cancel"
    }
    assert backend.trainers() == []
    count(**granted, slowest=round(slowest, 1), **check_all(backend, fleet.fakes, cancelled))
