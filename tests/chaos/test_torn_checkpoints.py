"""The newest checkpoint of a job is cut or changed where it is stored: noticed each time, and the
one before it is good for the rest.
"""

import random
from pathlib import Path

from app.models import JobStatus
from tests.chaos.conftest import Count
from tests.chaos.fleet import Fleet
from tests.chaos.invariants import check_result
from tests.chaos.scale import SCALE, every_run_on
from tests.support.fake_trainer import FakeTrainer

NUM_WORKERS = 4
AT_ONCE = 30
FAKE = FakeTrainer(steps=60, step_seconds=0.02, checkpoint_every=5)


def tear(path: Path, rng: random.Random) -> None:
    """A bit of it flips, or its end is missing, or all of it."""
    content = bytearray(path.read_bytes())
    where = rng.randrange(len(content))
    match rng.choice(["flip", "cut", "lose"]):
        case "flip":
            content[where] ^= 1 << rng.randrange(8)
            path.write_bytes(content)
        case "cut":
            path.write_bytes(content[:where])
        case "lose":
            path.unlink()


@every_run_on("postgres")
def test_torn_checkpoints_are_never_used(fleet: Fleet, rng: random.Random, count: Count) -> None:
    backend = fleet.backend
    torn: dict[str, int] = {}  # the step of the checkpoint before
    while len(torn) < SCALE.torn_checkpoints:
        jobs = fleet.add(*[FAKE] * min(AT_ONCE, SCALE.torn_checkpoints - len(torn)))
        fleet.start(NUM_WORKERS)

        def all_have_stopped(jobs: list[str] = jobs) -> bool:
            for job_id, status in zip(jobs, fleet.of(jobs), strict=True):
                if status is JobStatus.RUNNING and len(backend.checkpoints(job_id)) > 1:
                    fleet.request("pause", job_id)
            return set(fleet.of(jobs)) <= {JobStatus.PAUSED, JobStatus.SUCCEEDED}

        fleet.run_until(all_have_stopped, 120, "every job is paused")
        for job_id, status in zip(jobs, fleet.of(jobs), strict=True):
            if status is JobStatus.PAUSED:
                before, newest = backend.checkpoints(job_id)[-2:]
                folder = backend.storage.local_path(newest.storage_prefix)
                assert folder is not None
                tear(rng.choice(sorted(path for path in folder.rglob("*") if path.is_file())), rng)
                torn[job_id] = before.step
                fleet.request("resume", job_id)
        fleet.drain_queue()
        count(torn=len(torn))
    for job_id, step in torn.items():
        assert (backend.job(job_id).status, backend.attempts(job_id)[-1].start_step) == (
            JobStatus.SUCCEEDED,
            step,
        )
        check_result(backend, backend.job(job_id), FAKE)
    count(torn=len(torn), noticed=len(torn))
