"""What happens to the fleet. Each scenario returns what came of it, or fails with the reason."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from app.models import JobStatus
from tests.chaos.users import submit
from tests.fleet.service import APIS, WORKERS, FleetService
from tests.support.fake_trainer import FakeTrainer
from tests.support.forks import ROOT
from tests.support.waiting import wait_for

NUM_JOBS = 30
SHORT = FakeTrainer(steps=60, step_seconds=0.1, checkpoint_every=20)
STORE_AWAY_SECONDS = 60.0
CABLE_SECONDS = 40.0
REAL_TRAINER = {"FALQON_TRAINER_COMMAND": json.dumps([sys.executable, "-m", "falqon_core"])}
NUM_SLOTS = 2


class Skipped(Exception):
    """With the reason."""


def rolling_upgrade(service: FleetService, earlier: Path) -> str:
    """The earlier version on every machine; then one machine after the other has this one."""
    if not earlier.exists():
        raise Skipped("no earlier version to run")
    verdicts: set[str | None] = set()
    jobs = {submit(service.client_of(number).client, SHORT): SHORT for number in range(8)}
    service.migrate(ROOT)
    for name in (*APIS, *WORKERS):
        in_use = [service.releases[each] for each in APIS if each != name]
        service.start(name, ROOT)
        verdicts |= {each.database_verdict() for each in in_use}
        jobs |= {submit(in_use[0].client, SHORT): SHORT for _ in range(2)}
    service.wait_until_ended(list(jobs))
    assert verdicts == {"ok"}, f"/readyz of APIs in use said {verdicts}"
    return service.check(jobs)


def cable(service: FleetService, _: Path) -> str:
    """A worker's machine is cut off while it trains, and comes back."""
    jobs = {submit(service.client_of(n).client, SHORT): SHORT for n in range(NUM_JOBS)}

    def has_a_checkpoint_on_w2(job_id: str) -> bool:
        owner = service.records.job(job_id).lease_owner or ""
        return owner.startswith("w2-") and bool(service.records.checkpoints(job_id))

    service.wait_until(lambda: any(map(has_a_checkpoint_on_w2, jobs)), "w2 has a checkpoint")
    with service.network.unplugged(service.machines["w2"]):
        time.sleep(CABLE_SECONDS)
    service.wait_until_ended(list(jobs))
    outcomes = service.check(jobs)
    assert "lost" in outcomes, f"w2 has lost nothing: {outcomes}"
    return outcomes


def store(service: FleetService, _: Path) -> str:
    """The object store is silent for a minute, with jobs that run and jobs that wait."""
    jobs = {submit(service.client_of(n).client, SHORT): SHORT for n in range(10)}
    is_running = {JobStatus.RUNNING, JobStatus.SUCCEEDED}
    service.wait_until(
        lambda: any(service.records.job(each).status in is_running for each in jobs), "one runs"
    )
    with service.network.unplugged(service.machines["store"]):
        time.sleep(STORE_AWAY_SECONDS)
    service.wait_until_ended(list(jobs))
    outcomes = service.check(jobs)
    failures = sum(service.records.job(each).infra_failures for each in jobs)
    assert failures == 0, f"{failures} attempts were counted as failures"
    return outcomes


def ranks(service: FleetService, _: Path) -> str:
    """Two ranks of the real trainer on a machine of two slots, one of which is killed."""
    for name in WORKERS:
        service.start(name, ROOT, REAL_TRAINER | {"FALQON_SLOTS": str(NUM_SLOTS)})
    client = service.releases[APIS[0]].client
    turns = [{"role": "user", "content": "Code?"}, {"role": "assistant", "content": "2024."}]
    rows = (json.dumps({"messages": turns}) + "\n").encode() * 1000
    file = client.files.create(file=("codes.jsonl", rows), purpose="fine-tune")
    recipe = {"num_gpus": NUM_SLOTS, "max_steps": 60, "checkpoint_every": 5}
    wait_for(lambda: client.files.retrieve(file.id).status == "processed", 300, "the file")
    wait_for(lambda: _most_slots(service) == NUM_SLOTS, 300, "workers with two slots")
    job_id = client.fine_tuning.jobs.create(
        model="falqon-tiny",
        training_file=file.id,
        hyperparameters={"n_epochs": 10, "batch_size": 2},
        extra_body={"falqon": recipe | {"max_seq_length": 64, "rank": 8}},
    ).id
    service.wait_until(lambda: service.records.checkpoints(job_id), "a checkpoint")
    pids = _ranks_of(job_id)
    assert len(pids) == NUM_SLOTS, f"ranks: {pids}"
    os.kill(pids[-1], signal.SIGKILL)
    service.wait_until_ended([job_id])
    job = service.records.job(job_id)
    assert job.status == JobStatus.SUCCEEDED, f"{job.status}: {job.error_message}"
    attempts = service.records.attempts(job_id)
    assert [each.outcome for each in attempts] == ["lost", "succeeded"]
    assert attempts[1].start_step, "not from a checkpoint"
    return f"lost, then succeeded from step {attempts[1].start_step}"


def _most_slots(service: FleetService) -> int:
    client = service.releases[APIS[0]].client
    workers = client.get("/workers", cast_to=object)
    assert isinstance(workers, dict)
    return max((each["max_gpus"] for each in workers["data"]), default=0)


def _ranks_of(job_id: str) -> list[int]:
    """Return the processes that compute, not the one that starts them."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if job_id in command and "falqon_core" in command and "--num-processes" not in command:
            pids.append(int(folder.name))
    return sorted(pids)
