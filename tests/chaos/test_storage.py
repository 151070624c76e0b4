"""A storage that is away, refusing or silent, for minutes: jobs wait for it, and none of them fails
or counts it.

`tests/worker/machine/test_outage.py` does it in seconds, with shorter
timeouts than the processes here have.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.models import JobStatus
from tests.chaos.conftest import Count
from tests.chaos.scale import of_a_release
from tests.support.backend import Backend
from tests.support.fake_trainer import FakeTrainer, weights_of
from tests.support.object_store import ObjectStore
from tests.support.outage import Switch, backend_behind_a_switch
from tests.support.waiting import wait_for

NUM_WORKERS = 3
NUM_WAITING = 20  # jobs beside those that run
OUTAGE_SECONDS = 300.0
FAKE = FakeTrainer(steps=60, step_seconds=0.05, checkpoint_every=20)
END_SECONDS = 180.0


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    store = ObjectStore()
    yield store
    store.close()


@of_a_release
@pytest.mark.parametrize("how", ["refusing", "silent"])
def test_a_storage_that_is_away_fails_nothing(
    tmp_path: Path, store: ObjectStore, count: Count, how: str
) -> None:
    with backend_behind_a_switch(tmp_path, store) as (backend, switch):
        check_an_outage(backend, switch, count, how)


def check_an_outage(backend: Backend, switch: Switch, count: Count, how: str) -> None:
    jobs = [backend.add_job(FAKE) for _ in range(NUM_WORKERS + NUM_WAITING)]
    running = jobs[:NUM_WORKERS]
    for _ in range(NUM_WORKERS):
        backend.start_worker()
    for job_id in running:
        backend.wait_for_step(job_id, 1)
    switch.away(how)
    time.sleep(OUTAGE_SECONDS)
    waiting = {job_id: backend.job(job_id).status for job_id in jobs}
    assert set(waiting.values()) <= {JobStatus.RUNNING, JobStatus.QUEUED}, waiting
    switch.back()
    back_at = time.monotonic()
    wait_for(
        lambda: backend.job(running[0]).status == JobStatus.SUCCEEDED,
        END_SECONDS,
        "the first result is handed in",
    )
    first = time.monotonic() - back_at
    for job_id in jobs:
        backend.wait_for_status(job_id, JobStatus.SUCCEEDED, JobStatus.FAILED, seconds=END_SECONDS)
    attempts = [attempt for job_id in jobs for attempt in backend.attempts(job_id)]
    count(
        jobs=len(jobs),
        attempts=len(attempts),
        away=f"{OUTAGE_SECONDS:g}s",
        first_result_after=f"{first:.1f}s",
    )
    for job_id in jobs:
        job = backend.job(job_id)
        assert (job.status, job.infra_failures, job.error_code) == (JobStatus.SUCCEEDED, 0, None)
        assert backend.weights(job_id) == weights_of(FAKE.steps)
        assert [event.seq for event in backend.events(job_id)] == list(
            range(1, job.last_event_seq + 1)
        )
    assert {attempt.outcome for attempt in attempts} <= {"released", "succeeded"}
    assert len(attempts) <= len(jobs) + NUM_WORKERS, "a worker meets the outage once"
