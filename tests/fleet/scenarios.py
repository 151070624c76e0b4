"""What happens to the fleet. Each scenario returns what came of it, or fails with the reason."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from openai import OpenAI

from app.models import JobStatus
from tests.chaos.conftest import SEED
from tests.chaos.users import submit
from tests.fleet.seed import new_seed
from tests.fleet.service import APIS, WORKERS, FleetService
from tests.support.backend import processes
from tests.support.fake_trainer import FakeTrainer
from tests.support.forks import ROOT

NUM_JOBS = 30
SHORT = FakeTrainer(steps=60, step_seconds=0.1, checkpoint_every=20)
STORE_AWAY_SECONDS = 60.0
CABLE_SECONDS = 40.0
REAL_TRAINER = {"FALQON_TRAINER_COMMAND": json.dumps([sys.executable, "-m", "falqon_core"])}
NUM_SLOTS = 4


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
    """Four ranks of the real trainer on a machine of four slots, one of which is killed."""
    seed, rng = new_seed()
    for name in WORKERS:
        service.start(name, ROOT, REAL_TRAINER | {"FALQON_SLOTS": str(NUM_SLOTS)})
    client = service.releases[APIS[0]].client
    turns = [{"role": "user", "content": "Code?"}, {"role": "assistant", "content": "2024."}]
    rows = (json.dumps({"messages": turns}) + "\n").encode() * 1000
    file = client.files.create(file=("codes.jsonl", rows), purpose="fine-tune")
    service.wait_until(
        lambda: client.files.retrieve(file.id).status == "processed", "the file is checked"
    )
    service.wait_until(lambda: _most_slots(service) == NUM_SLOTS, "workers with so many slots")
    undisturbed = _submit_to_ranks(client, file.id)
    service.wait_until_ended([undisturbed])
    disturbed = _submit_to_ranks(client, file.id)
    service.wait_until(lambda: service.records.checkpoints(disturbed), "a checkpoint")
    pids = _ranks_of(disturbed)
    assert len(pids) == NUM_SLOTS, f"ranks: {pids}"
    rank = rng.randrange(NUM_SLOTS)
    os.kill(pids[rank], signal.SIGKILL)
    service.wait_until_ended([disturbed])
    for job_id in (undisturbed, disturbed):
        service.check_records(job_id)
    attempts = service.records.attempts(disturbed)
    assert [each.outcome for each in attempts] == ["lost", "succeeded"]
    assert attempts[1].start_step, "not from a checkpoint"
    weights = [service.records.weights(job_id) for job_id in (undisturbed, disturbed)]
    assert weights[0] == weights[1], "other weights than those of an undisturbed training"
    return (
        f"process {rank} killed ({SEED}={seed}): lost, then succeeded from step "
        f"{attempts[1].start_step}, with the bytes of an undisturbed training"
    )


def _submit_to_ranks(client: OpenAI, file_id: str) -> str:
    recipe = {"num_gpus": NUM_SLOTS, "max_steps": 60, "checkpoint_every": 5}
    recipe |= {"validation_fraction": 0}
    return client.fine_tuning.jobs.create(
        model="falqon-tiny",
        training_file=file_id,
        hyperparameters={"n_epochs": 10, "batch_size": NUM_SLOTS},
        extra_body={"falqon": recipe | {"max_seq_length": 64, "rank": 8}},
    ).id


def _most_slots(service: FleetService) -> int:
    client = service.releases[APIS[0]].client
    workers = client.get("/workers", cast_to=object)
    assert isinstance(workers, dict)
    return max((each["max_gpus"] for each in workers["data"]), default=0)


def _ranks_of(job_id: str) -> list[int]:
    """Return the processes that compute, not the one that starts them."""
    every = processes("falqon_core", "train", job_id)
    return sorted(set(every) - set(processes("--num-processes", job_id)))
