"""A machine that reaches one API and nothing else, and workers there that are killed again and
again.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from app.models import JobStatus
from app.models.job_lifecycle import TERMINAL
from tests.chaos.conftest import SEED
from tests.chaos.users import submit
from tests.fleet.network import Machine
from tests.fleet.seed import new_seed
from tests.fleet.service import APIS, ENVIRONMENT, WORKERS, FleetService, Tenant
from tests.fleet.trespass import ask_for_what_is_theirs
from tests.support.backend import processes
from tests.support.fake_trainer import FakeTrainer
from tests.support.forks import ROOT
from tests.support.release import Release

NUM_JOBS = 20
NUM_KILLS = 50
NUM_WORKERS = 3
MIN_LIVE = 6  # so that each kill meets somebody at work
MAX_SECONDS = 4.0  # from the start of a trainer to a kill: by then its result may be stored
FAKES = (
    FakeTrainer(steps=30, step_seconds=0.1, checkpoint_every=5),
    FakeTrainer(steps=80, step_seconds=0.05, checkpoint_every=20),
)
# Faults are many, so it takes more of them than usual to give a job up.
PATIENT = {"FALQON_MAX_INFRA_FAILURES": "1000"}


class JoinedWorker:
    """What a machine runs that has an address and a token; `name`: of its folder."""

    def __init__(self, service: FleetService, machine: Machine, tenant: Tenant, name: str) -> None:
        self._url = service.releases[APIS[0]].url
        self._folder = service.folder / name
        own = {"FALQON_WORKER_TOKEN": tenant.token, "PATH": os.environ["PATH"]}
        self._release = Release(
            ROOT, self._folder, ENVIRONMENT | own, host=machine.address, prefix=machine.prefix
        )
        self.start()

    def start(self) -> None:
        self._release.start_joined_worker(self._url)

    def trainers(self) -> list[int]:
        return processes("fake_trainer.py", str(self._folder))

    def kill(self) -> None:
        (worker,) = self._release.workers.values()
        worker.kill()
        worker.wait()

    def end(self) -> None:
        """Tell it to end, which it does well and with no process left."""
        self._release.drain_workers()
        assert self.trainers() == []

    def close(self) -> None:
        self._release.close()


def joined_worker(service: FleetService, _: Path) -> str:
    """Joined workers that reach one API alone; they and their trainers are killed in turn."""
    seed, rng = new_seed()
    for name in APIS:
        service.start(name, ROOT, PATIENT)
    service.start(WORKERS[0], ROOT, queues="cpu")
    for name in WORKERS[1:]:
        service.stop(name)
    machine = _add_machine(service)
    ours, theirs = (service.add_tenant(name) for name in ("ours", "theirs"))
    jobs = {submit(ours.client, FAKES[0]): FAKES[0]}
    with _jobs_of(service, machine, theirs) as their_jobs:
        answers = ask_for_what_is_theirs(service, ours, next(iter(jobs)), theirs, their_jobs)
    jobs |= {submit(ours.client, fake): fake for fake in rng.choices(FAKES, k=NUM_JOBS - 1)}
    with ExitStack() as stack:
        names = [f"ours-{number}" for number in range(NUM_WORKERS)]
        workers = [JoinedWorker(service, machine, ours, name) for name in names]
        for worker in workers:
            stack.callback(worker.close)
        kills = _kill_in_turn(service, workers, ours, jobs, rng)
        service.wait_until_ended(list(jobs))
        for worker in workers:
            worker.end()
    return (
        f"{kills['worker']} workers and {kills['trainer']} trainers killed ({SEED}={seed}): "
        f"{service.check(jobs)}; {answers} answers hold nothing of another project"
    )


def _add_machine(service: FleetService) -> Machine:
    api = service.machines[APIS[0]]
    machine = service.network.add_behind(api, "away")
    for name, (address, port) in service.backends.items():
        assert service.machines[WORKERS[0]].reaches(address, port), f"no worker reaches {name}"
        assert not machine.reaches(address, port), f"the machine reaches {name}"
    assert machine.reaches(api.address, service.releases[APIS[0]].port), "it reaches no API"
    return machine


@contextmanager
def _jobs_of(service: FleetService, machine: Machine, tenant: Tenant) -> Iterator[list[str]]:
    """Give one job that has ended and one that is being trained, which has to end well afterwards,
    both on this machine.
    """
    run_fast = service.folder / f"secret-of-{tenant.id}"
    ended = FakeTrainer(steps=5, checkpoint_every=3, run_fast=run_fast)
    endless = FakeTrainer(steps=600, step_seconds=1, checkpoint_every=20, run_fast=run_fast)
    worker = JoinedWorker(service, machine, tenant, "theirs")
    try:
        jobs = {submit(tenant.client, ended): ended}
        service.wait_until_ended(list(jobs))
        jobs |= {(last := submit(tenant.client, endless)): endless}
        service.wait_until(lambda: service.records.checkpoints(last), "the other has a checkpoint")
        yield list(jobs)
        run_fast.touch()
        service.wait_until_ended(list(jobs))
        worker.end()
        service.check(jobs)
    finally:
        worker.close()


def _kill_in_turn(
    service: FleetService,
    workers: Sequence[JoinedWorker],
    tenant: Tenant,
    jobs: dict[str, FakeTrainer],
    rng: random.Random,
) -> Counter[str]:
    """Kill a worker that trains, then a trainer, and so on, at random times; a worker comes back at
    once. Add jobs where too few are left.
    """
    kills: Counter[str] = Counter()
    while kills.total() < NUM_KILLS:
        while _num_live(service, jobs) < MIN_LIVE:
            fake = rng.choice(FAKES)
            jobs[submit(tenant.client, fake)] = fake
        service.wait_until(lambda: any(each.trainers() for each in workers), "a trainer begins")
        worker = rng.choice([each for each in workers if each.trainers()] or workers)
        time.sleep(rng.uniform(0, MAX_SECONDS))
        if kills.total() % 2 == 0:
            worker.kill()
            kills["worker"] += 1
            worker.start()
            continue
        for trainer in worker.trainers():
            with suppress(ProcessLookupError):
                os.kill(trainer, signal.SIGKILL)
                kills["trainer"] += 1
    return kills


def _num_live(service: FleetService, jobs: dict[str, FakeTrainer]) -> int:
    statuses = [JobStatus(service.records.job(each).status) for each in jobs]
    return sum(status not in TERMINAL for status in statuses)
