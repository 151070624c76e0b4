"""Cards that are taken back and jobs that are handed to Slurm, with a fault between any two."""

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import redis

from app.dispatch.starts import job_of
from app.models import JobStatus
from tests.chaos.conftest import SEED
from tests.chaos.users import submit
from tests.fleet.network import Machine
from tests.fleet.seed import new_seed
from tests.fleet.service import APIS, VALKEY_PORT, WORKERS, FleetService
from tests.support.backend import processes
from tests.support.fake_trainer import FakeTrainer
from tests.support.forks import ROOT
from tests.support.release import Release
from tests.support.slurm import SCRIPT, StandIn, rows_of

RESIDENT, NODE = WORKERS[:2], WORKERS[2]
NUM_BORROWED = 12
GUARANTEED = 2
LONG = FakeTrainer(steps=120, step_seconds=0.1, checkpoint_every=20)
SHORT = FakeTrainer(steps=40, step_seconds=0.1, checkpoint_every=20)
AT_ONCE = 2  # starts that the node executes
AWAY_SECONDS = 20.0  # longer than a lease
SCHEDULER_AWAY_SECONDS = 8.0
BETWEEN_SECONDS = 4.0  # the most from one fault to the next
# Faults are many, so it takes more of them than usual to give a job up.
PATIENT = {"FALQON_MAX_INFRA_FAILURES": "1000"}
PREEMPTED = "preempted"


class Node(threading.Thread):
    """What Slurm's node does: it executes the starts that the stand-in has begun, each a worker of
    one job.
    """

    def __init__(self, release: Release, slurm: StandIn) -> None:
        super().__init__()
        self.starts: dict[str, subprocess.Popen[bytes]] = {}  # by job
        self._release = release
        self._slurm = slurm
        self._ending = threading.Event()

    def run(self) -> None:
        while not self._ending.wait(0.2):
            with suppress(subprocess.CalledProcessError):  # the controller is silent
                self._look()
        for start in self.starts.values():
            start.kill()
            start.wait()

    def kill(self, rng: random.Random) -> bool:
        """Kill the worker of a start; return False if none is there."""
        live = [start for start in self.starts.values() if start.poll() is None]
        if live:
            rng.choice(live).kill()
        return bool(live)

    def close(self) -> None:
        self._ending.set()
        self.join()

    def _look(self) -> None:
        for job_id, start in list(self.starts.items()):
            if start.poll() is not None:
                (self._slurm.folder / f"release-{job_id}").touch()
                del self.starts[job_id]
        begun = [name for _, state, name in rows_of(self._slurm.environment) if state == "RUNNING"]
        for name in begun:
            job_id = job_of(name)
            assert job_id is not None
            if job_id not in self.starts and len(self.starts) < AT_ONCE:
                (self._slurm.folder / f"release-{job_id}").unlink(missing_ok=True)
                once = ("--queue", "gpu", "--once", "--wait", "30", "--job", job_id)
                self.starts[job_id] = self._release.start(f"start-{name}", "worker", *once)


class Dispatch:
    """`falqon dispatch` on a machine with Slurm's commands, and the node that executes."""

    def __init__(self, service: FleetService) -> None:
        folder = service.folder / "dispatch"
        folder.mkdir()
        self.slurm = StandIn(folder / "slurm")
        script = folder / "worker.sbatch"
        script.write_text(SCRIPT)
        self._command = ("dispatch", "--to", "slurm", "--script", str(script))
        environment = service.environment | PATIENT | self.slurm.environment
        self._release = _release_on(service.machines[APIS[1]], folder / "service", environment)
        node = _release_on(service.machines[NODE], folder / "node", service.environment | PATIENT)
        self.node = Node(node, self.slurm)
        self.node.start()
        self._process = self._start()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process = self._start()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self.node.close()

    def _start(self) -> subprocess.Popen[bytes]:
        return self._release.start("dispatch", *self._command)


def storm(service: FleetService, _: Path) -> str:
    """Cards are taken back and jobs handed over, while workers, starts and stores fail in turn."""
    seed, rng = new_seed()
    for name in APIS:
        service.start(name, ROOT, PATIENT)
    for name in RESIDENT:
        service.start(name, ROOT, PATIENT)
    service.start(NODE, ROOT, PATIENT, queues="cpu")
    borrower, owner = (service.add_tenant(name) for name in ("borrower", "owner"))
    share = {"guaranteed_gpus": GUARANTEED}
    service.releases[APIS[0]].client.post(f"/projects/{owner.id}", body=share, cast_to=object)
    jobs = {submit(borrower.client, LONG): LONG for _ in range(NUM_BORROWED)}
    with ExitStack() as stack:
        dispatch = Dispatch(service)
        stack.callback(dispatch.close)
        service.wait_until(lambda: _num_running(service, jobs) > GUARANTEED, "cards are borrowed")
        faults = _faults(service, dispatch, rng)
        for fault in rng.sample(faults, len(faults)):
            jobs[submit(owner.client, SHORT)] = SHORT
            time.sleep(rng.uniform(1, BETWEEN_SECONDS))
            fault()
        service.wait_until_ended(list(jobs))
    outcomes = service.check(jobs)
    times = [_times_preempted(service, job_id) for job_id in jobs]
    assert max(times) == 1, "no card was taken back, or twice from one job"
    started = sum(
        (each.worker or "").startswith(f"{NODE}-")
        for job_id in jobs
        for each in service.records.attempts(job_id)
    )
    assert started, "no start that was handed over trained"
    return (
        f"{len(faults)} faults ({SEED}={seed}), {sum(times)} jobs preempted, {started} attempts of "
        f"jobs that were handed over: {outcomes}"
    )


def _faults(
    service: FleetService, dispatch: Dispatch, rng: random.Random
) -> Sequence[Callable[[], object]]:
    def kill_worker() -> None:
        name = rng.choice(RESIDENT)
        (worker,) = service.releases[name].workers.values()
        worker.kill()
        worker.wait()
        service.releases.pop(name).close()
        service.start(name, ROOT, PATIENT)

    def kill_trainer() -> None:
        service.wait_until(lambda: processes("fake_trainer.py"), "somebody trains")
        with suppress(ProcessLookupError):
            os.kill(rng.choice(processes("fake_trainer.py")), signal.SIGKILL)

    def cut_off(machine: str) -> Callable[[], object]:
        def cut() -> None:
            with service.network.unplugged(service.machines[machine]):
                time.sleep(AWAY_SECONDS)

        return cut

    def silence_scheduler() -> None:
        with _silent(dispatch.slurm):
            time.sleep(SCHEDULER_AWAY_SECONDS)

    def kill_start() -> None:
        service.wait_until(lambda: dispatch.node.kill(rng), "a start is executed")

    def forget_messages() -> None:
        redis.Redis(service.machines["redis"].address, VALKEY_PORT).flushall()

    return (
        kill_worker,
        kill_trainer,
        cut_off(rng.choice(RESIDENT)),
        cut_off(NODE),
        cut_off("store"),
        silence_scheduler,
        kill_start,
        dispatch.kill,
        forget_messages,
    )


@contextmanager
def _silent(slurm: StandIn) -> Iterator[None]:
    slurm.cut_off()
    try:
        yield
    finally:
        slurm.come_back()


def _release_on(machine: Machine, folder: Path, environment: dict[str, str]) -> Release:
    return Release(ROOT, folder, environment, host=machine.address, prefix=machine.prefix)


def _num_running(service: FleetService, jobs: dict[str, FakeTrainer]) -> int:
    return sum(service.records.job(each).status == JobStatus.RUNNING for each in jobs)


def _times_preempted(service: FleetService, job_id: str) -> int:
    events = service.records.events(job_id)
    return sum((event.data or {}).get("code") == PREEMPTED for event in events)
