"""Workers as processes that are started again when they die, more jobs than they can execute at
once, and a reconciler beside them.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from sqlalchemy import select, update

from app.base.database import DATABASE_UNAVAILABLE_ERRORS
from app.base.errors import IllegalState
from app.jobs import transitions
from app.models import DEFAULT_PROJECT_ID, Job, JobStatus
from app.models.job_lifecycle import TERMINAL
from app.notifier.broker import Notifier
from app.reconciler import Reconciler
from tests.support.backend import Backend
from tests.support.fake_trainer import FakeTrainer
from tests.support.forks import Fork
from tests.support.valkey import Valkey

STUCK_SECONDS = 90.0
TICK_SECONDS = 0.1
RECONCILE_SECONDS = 1.0
# The first two take longer from one checkpoint to the next than one takes to be stored on a busy
# machine: 0.9 s and more were seen, with both databases and the workers of both at the same disk.
FAKES = (
    FakeTrainer(steps=80, step_seconds=0.05, checkpoint_every=30),
    FakeTrainer(steps=40, step_seconds=0.1, checkpoint_every=15),
    FakeTrainer(
        steps=3_000, step_seconds=0, checkpoint_every=1_000
    ),  # more events in a second than many a database takes
)


class Fleet:
    def __init__(self, backend: Backend, rng: random.Random) -> None:
        self.backend = backend
        self.rng = rng
        self.fakes: dict[str, FakeTrainer] = {}
        self.workers: list[Fork] = []
        self._frozen: list[Fork] = []
        self.resumes_full_disks = True
        self._num_workers = 0
        self._valkey = Valkey(backend.settings.data_dir)
        self._reconciler = Reconciler(
            backend.database, backend.storage, Notifier(backend.settings), backend.settings
        )
        self._reconcile_at = 0.0

    def start(self, num_workers: int) -> None:
        self._num_workers = num_workers

    def add(self, *fakes: FakeTrainer) -> list[str]:
        ids = []
        for fake in fakes:
            ids.append(self.backend.add_job(fake))
            self.fakes[ids[-1]] = fake
        return ids

    def statuses(self) -> dict[str, JobStatus]:
        with self.backend.database.read() as session:
            rows = session.execute(select(Job.id, Job.status).where(Job.id.in_(self.fakes)))
            return {job_id: JobStatus(status) for job_id, status in rows}

    def of(self, job_ids: Sequence[str]) -> list[JobStatus]:
        statuses = self.statuses()
        return [statuses[job_id] for job_id in job_ids]

    def top_up(self, num_jobs: int, fakes: Sequence[FakeTrainer] = FAKES) -> None:
        """So many live ones, as far as the database takes writes: with SQLite a stopped worker may
        hold its lock.
        """
        live = sum(status not in TERMINAL for status in self.statuses().values())
        with suppress(DATABASE_UNAVAILABLE_ERRORS):
            self.add(*(self.rng.choice(fakes) for _ in range(num_jobs - live)))

    def kill_worker(self) -> None:
        self.rng.choice(self.workers).kill()

    def request(self, action: str, job_id: str) -> bool:
        """As the user's call would; False when the service refuses it, because of the state the job
        is in.
        """
        settings = self.backend.settings
        try:
            with self.backend.database.transaction() as session:
                match action:
                    case "cancel":
                        transitions.cancel(session, DEFAULT_PROJECT_ID, job_id)
                    case "pause":
                        transitions.pause(session, DEFAULT_PROJECT_ID, job_id)
                    case "resume":
                        transitions.resume(session, DEFAULT_PROJECT_ID, job_id, settings)
        except IllegalState:
            return False
        return True

    def freeze(self) -> list[Fork]:
        """All workers with their trainers; others take their places. None of them inside a write:
        the lock would stay with it. So they are stopped while we have it, and again if one that
        waited for it has got it from us.
        """
        while True:
            try:
                with self.writing():
                    self._signal(self.workers, signal.SIGSTOP)
                with self.writing():
                    break
            except DATABASE_UNAVAILABLE_ERRORS:
                self.wake(self.workers)
        frozen = self.workers
        self.workers = []
        self._frozen += frozen
        return frozen

    def wake(self, frozen: list[Fork]) -> None:
        self._signal(frozen, signal.SIGCONT)

    def send_home(self, workers: list[Fork]) -> None:
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        self.run_until(
            lambda: all(worker.poll() is not None for worker in workers),
            30,
            "workers end that are told to",
        )

    def _signal(self, workers: list[Fork], number: signal.Signals) -> None:
        for pid in [*(worker.pid for worker in workers), *self.backend.trainers()]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def trainer(self) -> int | None:
        trainers = self.backend.trainers()
        return self.rng.choice(trainers) if trainers else None

    def tick(self) -> None:
        """What goes on all the time: dead workers are replaced, lost jobs rescued, jobs that a full
        disk paused resumed.
        """
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        while len(self.workers) < self._num_workers:
            self.workers.append(self.backend.start_worker())
        if time.monotonic() > self._reconcile_at:
            try:
                self._reconciler.tick()
                self._reconciler.sweep()
                if self.resumes_full_disks:
                    self._resume()
            except DATABASE_UNAVAILABLE_ERRORS:
                # a stopped worker holds the database's lock: looked at again with the next tick
                pass
            self._reconcile_at = time.monotonic() + RECONCILE_SECONDS
        time.sleep(TICK_SECONDS)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """No job's row can be written by others meanwhile."""
        with self.backend.database.transaction() as session:
            session.execute(update(Job).values(priority=Job.priority))
            yield

    def run_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.tick()

    def run_until(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
            self.tick()

    def run_until_all(self, jobs: Sequence[str], statuses: set[JobStatus], seconds: float) -> None:
        self.run_until(
            lambda: set(self.of(jobs)) <= statuses, seconds, f"all of {jobs} are one of {statuses}"
        )

    def drain_queue(self) -> None:
        """Until every job has ended. One that gets nowhere for `STUCK_SECONDS` is stuck."""
        previous: dict[str, tuple[int, JobStatus]] = {}
        moved_at = time.monotonic()
        while not all(status in TERMINAL for status in self.statuses().values()):
            self.tick()
            with self.backend.database.read() as session:
                now = {
                    row.id: (row.last_event_seq, JobStatus(row.status))
                    for row in session.scalars(select(Job))
                }
            if now != previous:
                previous = now
                moved_at = time.monotonic()
            assert time.monotonic() - moved_at < STUCK_SECONDS, f"stuck: {self.statuses()}"

    def _resume(self) -> None:
        for job_id, status in self.statuses().items():
            if status is JobStatus.PAUSED and self.backend.job(job_id).paused_reason == "disk_full":
                self.request("resume", job_id)

    def close(self) -> None:
        for worker in [*self.workers, *self._frozen]:
            if worker.poll() is None:
                worker.send_signal(signal.SIGKILL)
            worker.wait()
        self._valkey.kill()
