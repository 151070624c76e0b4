"""The disk is full at some write of an attempt, again and again: the job is paused, and once there
is space it ends as it would have.
"""

import random
from datetime import timedelta
from pathlib import Path

from app.models import JobStatus
from tests.chaos.conftest import Count
from tests.chaos.fleet import Fleet
from tests.chaos.invariants import check_all
from tests.chaos.scale import SCALE, every_run_on
from tests.support.fake_trainer import FakeTrainer

WRITES = {  # and at most how many of them an attempt makes
    "during_staging": 4,
    "storage_fetch": 4,
    "checkpoint_write": 4,
    "storage_write": 8,
    "during_checkpoint_upload": 8,
    "export_write": 1,
    "before_hand_in": 1,
    "during_result_upload": 4,
}
FAKE = FakeTrainer(steps=80, step_seconds=0.05, checkpoint_every=20)
AT_ONCE = min(5, SCALE.full_disks + 2)  # some of them end before the disk is full
NUM_AFTERWARDS = 2  # workers, once there is space


@every_run_on("sqlite")
def test_a_full_disk_costs_nothing_but_time(
    fleet: Fleet, rng: random.Random, count: Count, tmp_path: Path
) -> None:
    backend = fleet.backend
    # Nobody is killed here, so a lease that ends on a busy machine would be the only loss.
    backend.settings = backend.settings.model_copy(update={"lease": timedelta(seconds=60)})
    full = 0
    while full < SCALE.full_disks:
        jobs = fleet.add(*[FAKE] * AT_ONCE)
        fleet.resumes_full_disks = False
        marks = []
        for number in range(AT_ONCE):
            point = rng.choice(list(WRITES))
            marks.append(tmp_path / f"marks{full}-{number}" / point)
            fault = f"{point}=enospc*{rng.randint(1, WRITES[point])}"
            fleet.workers.append(
                backend.start_worker(FAULT_POINTS=fault, FAULT_MARKS=str(marks[-1].parent))
            )
        fleet.run_until_all(jobs, {JobStatus.SUCCEEDED, JobStatus.PAUSED}, 90)
        paused = [
            job_id
            for job_id, status in zip(jobs, fleet.of(jobs), strict=True)
            if status is JobStatus.PAUSED
        ]
        for job_id in paused:
            job = backend.job(job_id)
            assert (job.paused_reason, job.infra_failures, job.error_code) == ("disk_full", 0, None)
            assert (backend.attempts(job_id)[-1].outcome, backend.trainers()) == ("paused", [])
        # a checkpoint without space at the very end costs nothing
        assert len(paused) <= sum(mark.exists() for mark in marks)
        full += len(paused)
        fleet.send_home(fleet.workers)
        fleet.resumes_full_disks = True
        fleet.start(NUM_AFTERWARDS)
        fleet.drain_queue()
        fleet.start(0)
        fleet.send_home(fleet.workers)
        count(full_disks=full)
    codes = {attempt.error_code for job_id in fleet.fakes for attempt in backend.attempts(job_id)}
    assert "internal_error" not in codes, "a full disk that was taken for something else"
    count(full_disks=full, **check_all(backend, fleet.fakes))
