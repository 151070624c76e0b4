"""The real trainer on falqon-tiny: however often it is paused, or it or its worker is killed, the
model has the bytes of an undisturbed training.
"""

import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.base.database import Database
from app.base.storage import Storage
from app.models import JobStatus
from tests.chaos.conftest import Count
from tests.chaos.scale import every_run_on, of_a_release
from tests.support.records import Records
from tests.support.service import KEY, Service
from tests.support.waiting import wait_for

ENVIRONMENT = {
    "FALQON_ADMIN_KEY": KEY,
    "FALQON_LEASE": "PT5S",
    "FALQON_HEARTBEAT": "PT0.5S",
    "FALQON_POLL": "PT0.5S",
    "FALQON_NUM_THREADS": "1",
    "FALQON_MAX_INFRA_FAILURES": "1000",
    "FALQON_RETRY_DELAY": "PT0S",
}
VICTIMS = {"trainer": ("falqon_core", "train"), "worker": ("gpu-",)}
NUM_KILLS = 20  # of the trainer, and as many of its worker
# far more than are made before progress is told, once a second, or the job would end before its
# kills
STEPS = 200
RECIPE = {"max_steps": STEPS, "learning_rate": 0.01, "checkpoint_every": 20, "max_seq_length": 64}
RECIPE |= {"validation_fraction": 0}
END_SECONDS = 240.0


@pytest.fixture
def service(
    short_tmp: Path, tmp_path: Path, database: Database, database_url: str
) -> Iterator[Service]:
    service = Service(
        short_tmp / f"real-{tmp_path.name[-8:]}",
        ENVIRONMENT | {"DATABASE_URL": database_url},
        fake=False,
    )
    service.wait_until_up()
    yield service
    service.close()


def submit(service: Service, file_id: str) -> str:
    job = service.client.fine_tuning.jobs.create(
        model="falqon-tiny",
        training_file=file_id,
        seed=7,
        hyperparameters={"n_epochs": 20},
        extra_body={"falqon": RECIPE},
    )
    return job.id


@of_a_release
@every_run_on("sqlite")
def test_interrupted_or_not_the_bytes_are_the_same(
    service: Service, database: Database, rng: random.Random, count: Count
) -> None:
    records = Records(database, Storage((service.folder / "objects").as_uri()))
    turns = [
        {"role": "user", "content": "What is the code?"},
        {"role": "assistant", "content": "The code is 2024."},
    ]
    file = service.client.files.create(
        file=("codes.jsonl", (json.dumps({"messages": turns}) + "\n").encode() * 60),
        purpose="fine-tune",
    )
    undisturbed = submit(service, file.id)
    wait_for(
        lambda: records.job(undisturbed).status == JobStatus.SUCCEEDED,
        END_SECONDS,
        "the undisturbed job succeeds",
    )
    killed = dict.fromkeys(VICTIMS, 0)
    while max(killed.values()) < NUM_KILLS:
        job_id = submit(service, file.id)
        for victim in VICTIMS:
            wait_for_steps(records, job_id, rng.randint(1, STEPS // 5))
            kill(service, records, job_id, victim)
            killed[victim] += 1
        wait_for_steps(records, job_id, rng.randint(1, STEPS // 5))
        pause_and_resume(service, records, job_id)
        wait_for(
            lambda job_id=job_id: records.job(job_id).status == JobStatus.SUCCEEDED,
            END_SECONDS,
            "the job succeeds",
        )
        assert records.weights(job_id) == records.weights(undisturbed)
        count(**killed)


def wait_for_steps(records: Records, job_id: str, num_steps: int) -> None:
    def step() -> int:
        progress = records.job(job_id).progress
        return 0 if progress is None else progress.step

    last = step() + num_steps
    wait_for(
        lambda: step() >= last or records.job(job_id).status == JobStatus.SUCCEEDED,
        END_SECONDS,
        f"step {last}",
    )
    assert records.job(job_id).status == JobStatus.RUNNING, f"over before step {last} was told"


def kill(service: Service, records: Records, job_id: str, victim: str) -> None:
    attempt = records.job(job_id).attempt
    for pid in service.pids(*VICTIMS[victim]):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: records.job(job_id).attempt > max(attempt, 1), what="another attempt")


def pause_and_resume(service: Service, records: Records, job_id: str) -> None:
    service.client.fine_tuning.jobs.pause(job_id)
    wait_for(lambda: records.job(job_id).status == JobStatus.PAUSED, what="the job is paused")
    paused_at = records.job(job_id).progress
    service.client.fine_tuning.jobs.resume(job_id)
    wait_for(
        lambda: records.attempts(job_id)[-1].start_step == paused_at.step, what="it continues there"
    )
