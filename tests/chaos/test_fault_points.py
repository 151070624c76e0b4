"""Every named point of worker and trainer: with every kind of fault and on both databases in a
release, with a random one and on one of the databases in every run. Each in a worker of its own,
several at a time.
"""

import os
import random
import re
import signal
import time
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from app.attempts.endings import POISON_CODES
from app.base.database import DATABASE_UNAVAILABLE_ERRORS, now_plus
from app.models import JobStatus
from falqon_core import fault_points
from tests.chaos.api_process import ApiProcess
from tests.chaos.conftest import Count
from tests.chaos.fleet import Fleet
from tests.chaos.invariants import check_all
from tests.chaos.scale import RELEASE, SCALE, every_run_on
from tests.support.backend import ROOT, Backend
from tests.support.fake_trainer import FakeTrainer, weights_of
from tests.support.waiting import wait_for

OF_THE_API = {
    "before_submit_commit",
    "after_submit_commit",
    "after_notify",
    "before_rescue_commit",
    "before_retention_commit",  # tests/contract/test_retention.py
}
# tests/worker/operations/test_switches.py
OF_SWITCHES = {"before_decision_commit", "after_decision_commit"}
OF_EXPORTS = {"during_export_upload", "before_export_row"}  # tests/worker/operations/test_export.py
AT_ONCE = 6
HEALTHY_WORKERS = 1
SPARE_JOBS = 3  # more than the workers with a fault ahead, so that each of these has one
NUM_AFTERWARDS = 4  # workers for the jobs that are left
FAKES = (
    FakeTrainer(steps=60, step_seconds=0.02, checkpoint_every=20),
    FakeTrainer(steps=900, step_seconds=0, checkpoint_every=300),
)
# Of one that is to spool: more events than are written before the database stops answering.
RACING = (FakeTrainer(steps=3_000, step_seconds=0, checkpoint_every=1_000),)
FIRES_SECONDS = 300.0
FROZEN_LEASES = 1.5
FROZEN_SECONDS = 2.0
HOLD_SECONDS = 2.0  # less than the fence


class Case(NamedTuple):
    point: str
    action: str


def named_points() -> set[str]:
    """As the source has them, so that a new one cannot be forgotten."""
    files = (
        path
        for folder in ("app", "worker", "falqon_core")
        for path in (ROOT / folder).rglob("*.py")
    )
    return {
        point for path in files for point in re.findall(r'\bfault\("(\w+)"\)', path.read_text())
    }


OF_DISPATCHERS = {"before_dispatch", "after_dispatch"}  # tests/app/dispatch
POINTS = sorted(named_points() - OF_THE_API - OF_EXPORTS - OF_SWITCHES - OF_DISPATCHERS)


def has_fired(mark: Path) -> bool:
    """A mark is made empty, and then filled."""
    return mark.exists() and mark.stat().st_size > 0


class Armed:
    """A worker with one fault ahead; once that has happened, and what it stopped goes on, it is
    sent home.
    """

    def __init__(self, backend: Backend, case: Case, marks: Path) -> None:
        self.case = case
        self._mark = marks / case.point
        self._process = backend.start_worker(
            FAULT_POINTS=f"{case.point}={case.action}", FAULT_MARKS=str(marks)
        )
        self._started_at = time.monotonic()
        self._frozen_seconds = FROZEN_LEASES * backend.settings.lease.total_seconds()
        self._fired_at: float | None = None

    def is_over(self) -> bool:
        if self._fired_at is None:
            ended = self._process.poll()
            if not has_fired(self._mark):
                assert ended is None, (
                    f"the worker of {self.case} ended with {ended} before its point"
                )
                assert time.monotonic() - self._started_at < FIRES_SECONDS, (
                    f"{self.case} never came to its point"
                )
                return False
            self._fired_at = time.monotonic()
        if self.case.action == "stop" and not self._goes_on(self._fired_at):
            return False
        self._process.send_signal(signal.SIGTERM)
        return True

    def _goes_on(self, fired_at: float) -> bool:
        """A worker is woken after its lease was given away; a trainer is found, and killed, by its
        worker.
        """
        pid = int(self._mark.read_text().split()[1])
        if pid != self._process.pid:
            assert time.monotonic() - fired_at < FIRES_SECONDS, (
                f"{self.case}: nobody misses the trainer"
            )
            return not Path(f"/proc/{pid}").exists()
        if time.monotonic() - fired_at < self._frozen_seconds:
            return False
        self._process.send_signal(signal.SIGCONT)
        return True


@pytest.fixture
def cases(rng: random.Random, database_url: str) -> list[Case]:
    """In random order. Last, so first taken, what stops, which takes longest."""
    actions = list(fault_points.ACTIONS)
    if SCALE is RELEASE:
        cases = [Case(point, action) for point in POINTS for action in actions]
    else:
        points = POINTS[database_url.startswith("sqlite") :: 2]
        cases = [Case(point, rng.choice(actions)) for point in points]
    rng.shuffle(cases)
    return sorted(cases, key=lambda case: case.action == "stop")


def test_jobs_survive_a_fault_at_every_point(
    fleet: Fleet, cases: list[Case], count: Count, tmp_path: Path
) -> None:
    backend = fleet.backend
    fleet.start(HEALTHY_WORKERS)
    waiting = list(cases)
    armed = list[Armed]()
    while waiting or armed:
        while waiting and len(armed) < AT_ONCE:
            case = waiting.pop()
            armed.append(Armed(backend, case, tmp_path / "marks" / f"{case.point}-{case.action}"))
        is_to_spool = any(fault.case.point == "spool_write" for fault in armed)
        fleet.top_up(len(armed) + SPARE_JOBS, RACING if is_to_spool else FAKES)
        fleet.tick()
        armed = [fault for fault in armed if not fault.is_over()]
        if is_to_spool:
            with suppress(DATABASE_UNAVAILABLE_ERRORS), fleet.writing():
                # a spool is written only while the database does not answer
                time.sleep(HOLD_SECONDS)
            fleet.run_for(HOLD_SECONDS / 2)
        count(fired=len(cases) - len(waiting) - len(armed), of=len(cases))
    fleet.start(NUM_AFTERWARDS)
    fleet.drain_queue()
    poisoned = crashed_twice_alike(fleet)
    tally = check_all(
        backend, fleet.fakes, dict.fromkeys(poisoned, JobStatus.FAILED), database_stood=False
    )
    count(fired=len(cases), of=len(cases), poisoned=len(poisoned), **tally)


@every_run_on("sqlite")
@pytest.mark.parametrize("action", fault_points.ACTIONS)
def test_a_rescue_that_fails_is_made_up_for(
    backend: Backend, count: Count, tmp_path: Path, action: str
) -> None:
    """The reconciler's own point; it is the only one around."""
    backend.settings = backend.settings.model_copy(update={"lease": timedelta(seconds=60)})
    mark = tmp_path / "marks" / "before_rescue_commit"
    run_fast = tmp_path / "run_fast"
    with ExitStack() as stack:
        armed = {"FAULT_POINTS": f"{mark.name}={action}", "FAULT_MARKS": str(mark.parent)}
        api = ApiProcess(backend, armed)
        stack.callback(api.close)
        job_id = backend.add_job(FakeTrainer(steps=200, step_seconds=0.05, run_fast=run_fast))
        worker = backend.start_worker()
        backend.wait_for_step(job_id, 5)
        worker.kill()
        run_fast.touch()
        backend.set(job_id, lease_expires_at=now_plus(-1))
        wait_for(lambda: has_fired(mark), what="a rescue fails")
        if action == "exit":
            api.process.wait()
            api.start()
        if action == "stop":
            time.sleep(FROZEN_SECONDS)
            os.kill(int(mark.read_text().split()[1]), signal.SIGCONT)
        backend.wait_for_status(job_id, JobStatus.QUEUED, seconds=60)
        assert backend.supervisor().execute_next()
    assert (backend.job(job_id).attempt, backend.weights(job_id)) == (2, weights_of(200))
    count(fired=1)


def crashed_twice_alike(fleet: Fleet) -> list[str]:
    """Jobs that met two of these workers, one after the other and at the same step, and were
    rightly given up.
    """
    job_ids = []
    for job_id, status in fleet.statuses().items():
        if status is JobStatus.FAILED:
            before, last = fleet.backend.attempts(job_id)[-2:]
            assert (before.outcome, before.error_code, before.start_step) == (
                "lost",
                last.error_code,
                last.start_step,
            )
            assert last.error_code in POISON_CODES
            job_ids.append(job_id)
    return job_ids
