"""Every named point of worker and trainer, with every kind of fault, once: each in a worker of its own, several at a time."""

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

from app.database import AWAY, now_plus
from app.models import JobStatus
from falqon_core import fault_points
from tests.chaos.api_process import ApiProcess
from tests.chaos.conftest import Count
from tests.chaos.fleet import Fleet
from tests.chaos.invariants import check_all
from tests.chaos.scale import RELEASE, SCALE
from tests.support.house import ROOT, House
from tests.support.toy_trainer import Toy, weights_of
from tests.support.waiting import wait_for
from worker.attempt.supervisor import POISON

OF_THE_API = {"before_submit_commit", "after_submit_commit", "after_ring", "before_rescue_commit"}
OF_EXPORTS = {"during_export_upload", "before_export_row"}  # tests/worker/operations/test_export.py
AT_ONCE = 6
HEALTHY_WORKERS = 1
JOBS_AT_ONCE = 10  # some more than workers, so that each of these has one
NUM_AFTERWARDS = 4  # workers for the jobs that are left
TOYS = (Toy(steps=60, step_seconds=0.02, checkpoint_every=20), Toy(steps=3_000, step_seconds=0, checkpoint_every=1_000))
FIRES_SECONDS = 300.0
FROZEN_LEASES = 1.5
FROZEN_SECONDS = 2.0
HOLD_SECONDS = 2.0  # less than the fence


class Case(NamedTuple):
    point: str
    action: str


def named_points() -> set[str]:
    """As the source has them, so that a new one cannot be forgotten."""
    files = (path for folder in ("app", "worker", "falqon_core") for path in (ROOT / folder).rglob("*.py"))
    return {point for path in files for point in re.findall(r'\bfault\("(\w+)"\)', path.read_text())}


CASES = [Case(point, action) for point in sorted(named_points() - OF_THE_API - OF_EXPORTS) for action in fault_points.ACTIONS]


def has_fired(mark: Path) -> bool:
    """A mark is made empty, and then filled."""
    return mark.exists() and mark.stat().st_size > 0


class Armed:
    """A worker with one fault ahead; once that has happened, and what it stopped goes on, it is sent home."""

    def __init__(self, house: House, case: Case, marks: Path) -> None:
        self.case = case
        self._mark = marks / case.point
        self._process = house.start_worker(FAULT_POINTS=f"{case.point}={case.action}", FAULT_MARKS=str(marks))
        self._started_at = time.monotonic()
        self._frozen_seconds = FROZEN_LEASES * house.settings.lease.total_seconds()
        self._fired_at: float | None = None

    def is_over(self) -> bool:
        if self._fired_at is None:
            ended = self._process.poll()
            if not has_fired(self._mark):
                assert ended is None, f"the worker of {self.case} ended with {ended} before its point"
                assert time.monotonic() - self._started_at < FIRES_SECONDS, f"{self.case} never came to its point"
                return False
            self._fired_at = time.monotonic()
        if self.case.action == "stop" and not self._goes_on(self._fired_at):
            return False
        self._process.send_signal(signal.SIGTERM)
        return True

    def _goes_on(self, fired_at: float) -> bool:
        """A worker is woken after its lease was given away; a trainer is found, and killed, by its worker."""
        pid = int(self._mark.read_text().split()[1])
        if pid != self._process.pid:
            assert time.monotonic() - fired_at < FIRES_SECONDS, f"{self.case}: nobody misses the trainer"
            return not Path(f"/proc/{pid}").exists()
        if time.monotonic() - fired_at < self._frozen_seconds:
            return False
        self._process.send_signal(signal.SIGCONT)
        return True


@pytest.fixture
def cases(database_url: str, rng: random.Random) -> list[Case]:
    """One half for each of the two databases; a release has all of it on both. Last, so first taken, what stops, which takes longest."""
    names = [case.point for case in CASES]
    half = 0 if database_url.startswith("sqlite") else 1
    mine = [
        case for i, case in enumerate(CASES) if SCALE is RELEASE or (i + names.index(case.point) // len(fault_points.ACTIONS)) % 2 == half
    ]
    return sorted(rng.sample(mine, len(mine)), key=lambda case: case.action == "stop")


def test_every_point_fails_in_every_way(fleet: Fleet, cases: list[Case], count: Count, tmp_path: Path) -> None:
    house = fleet.house
    fleet.start(HEALTHY_WORKERS)
    waiting, armed = list(cases), list[Armed]()
    while waiting or armed:
        fleet.top_up(JOBS_AT_ONCE, TOYS)
        while waiting and len(armed) < AT_ONCE:
            case = waiting.pop()
            armed.append(Armed(house, case, tmp_path / "marks" / f"{case.point}-{case.action}"))
        fleet.tick()
        armed = [one for one in armed if not one.is_over()]
        if any(one.case.point == "spool_write" for one in armed):
            with suppress(AWAY), fleet.writing():
                time.sleep(HOLD_SECONDS)  # a spool is written only while the database does not answer
            fleet.run_for(HOLD_SECONDS / 2)
        count(fired=len(cases) - len(waiting) - len(armed), of=len(cases))
    fleet.start(NUM_AFTERWARDS)
    fleet.drain_queue()
    poisoned = crashed_twice_alike(fleet)
    tally = check_all(house, fleet.toys, dict.fromkeys(poisoned, JobStatus.FAILED), database_stood=False)
    count(fired=len(cases), of=len(cases), poisoned=len(poisoned), **tally)


@pytest.mark.parametrize("action", fault_points.ACTIONS)
def test_a_rescue_that_fails_is_made_up_for(house: House, count: Count, tmp_path: Path, action: str) -> None:
    """The reconciler's own point; it is the only one around."""
    house.settings = house.settings.model_copy(update={"lease": timedelta(seconds=60)})
    mark, hurry = tmp_path / "marks" / "before_rescue_commit", tmp_path / "hurry"
    with ExitStack() as stack:
        api = ApiProcess(house)
        stack.callback(api.close)
        api.kill()
        api.start({"FAULT_POINTS": f"{mark.name}={action}", "FAULT_MARKS": str(mark.parent)})
        job_id = house.add_job(Toy(steps=200, step_seconds=0.05, hurry=hurry))
        worker = house.start_worker()
        house.wait_for_step(job_id, 5)
        worker.kill()
        hurry.touch()
        house.set(job_id, lease_expires_at=now_plus(-1))
        wait_for(lambda: has_fired(mark), 30, "a rescue fails")
        if action == "exit":
            api.process.wait()
            api.start()
        if action == "stop":
            time.sleep(FROZEN_SECONDS)
            os.kill(int(mark.read_text().split()[1]), signal.SIGCONT)
        house.wait_for_status(job_id, JobStatus.QUEUED, seconds=60)
        assert house.supervisor().execute_next()
    assert (house.job(job_id).attempt, house.weights(job_id)) == (2, weights_of(200))
    count(fired=1)


def crashed_twice_alike(fleet: Fleet) -> list[str]:
    """Jobs that met two of these workers, one after the other and at the same step, and were rightly given up."""
    found = []
    for job_id, status in fleet.statuses().items():
        if status is JobStatus.FAILED:
            before, last = fleet.house.attempts(job_id)[-2:]
            assert (before.outcome, before.error_code, before.start_step) == ("lost", last.error_code, last.start_step)
            assert last.error_code in POISON
            found.append(job_id)
    return found
