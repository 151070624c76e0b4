"""One job on two slots of a CPU: the worker starts two ranks of the real trainer, which compute one
training over gloo. Whatever ends it ends both, and they go on from their checkpoint: in every run a
rank is killed, in a release a training is paused, drained and cancelled, too.
"""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.base.database import Database
from app.base.storage import Storage
from app.models import Job, JobStatus
from tests.chaos.scale import RELEASE, SCALE, every_run_on
from tests.support.records import Records
from tests.support.service import KEY, Service
from tests.support.waiting import wait_for

NUM_SLOTS = 2
FAULT = "checkpoint_write"
ENVIRONMENT = {
    "FALQON_ADMIN_KEY": KEY,
    "FALQON_SLOTS": str(NUM_SLOTS),
    "FALQON_NUM_THREADS": "1",
    "FALQON_LEASE": "PT10S",
    "FALQON_HEARTBEAT": "PT0.3S",
    "FALQON_POLL": "PT0.5S",
    "FALQON_RETRY_DELAY": "PT0S",
    # Rank 0 of the first training stops itself at its second checkpoint, so no machine is too fast.
    "FAULT_POINTS": f"{FAULT}=stop*2",
}
END_SECONDS = 240.0
EVERY = 3
# None of these trainings ends before somebody has stopped it.
ENDLESS = {"max_steps": 20_000, "checkpoint_every": EVERY}


@pytest.fixture
def service(
    short_tmp: Path, tmp_path: Path, database: Database, database_url: str
) -> Iterator[Service]:
    locks = tmp_path / "locks"  # of slots: other services of this machine have theirs
    locks.mkdir()
    own = {
        "DATABASE_URL": database_url,
        "TMPDIR": str(locks),
        "FAULT_MARKS": str(tmp_path / "marks"),
    }
    folder = short_tmp / f"ranks-{tmp_path.name[-8:]}"
    service = Service(folder, ENVIRONMENT | own, fake=False)
    service.wait_until_up()
    yield service
    service.close()


class Trained:
    """One job, from outside."""

    def __init__(self, service: Service, records: Records, file_id: str, **recipe: Any) -> None:
        self._service = service
        self._records = records
        options = recipe | {"num_gpus": NUM_SLOTS, "max_seq_length": 64, "rank": 8}
        options |= {"validation_fraction": 0}
        self.id = service.client.fine_tuning.jobs.create(
            model="falqon-tiny",
            training_file=file_id,
            hyperparameters={"n_epochs": 50, "batch_size": 2},
            extra_body={"falqon": options},
        ).id

    @property
    def row(self) -> Job:
        return self._records.job(self.id)

    def ranks(self) -> list[int]:
        every = self._service.pids("falqon_core", "train", self.id)
        return sorted(set(every) - set(self._service.pids("--num-processes", self.id)))

    def wait_for(self, status: JobStatus) -> None:
        """Wait until it is so, and no process of it is left."""
        wait_for(lambda: self.row.status == status, END_SECONDS, f"it is {status}")
        wait_for(lambda: not self._service.pids("falqon_core", "train", self.id), END_SECONDS)

    def wait_for_steps_of(self, attempt: int) -> None:
        """Wait until this attempt has stored a checkpoint of its own."""

        def has_stored() -> bool:
            return any(each.attempt == attempt for each in self._records.checkpoints(self.id))

        wait_for(has_stored, END_SECONDS, f"attempt {attempt} stores a checkpoint")
        assert len(self.ranks()) == NUM_SLOTS
        assert self._records.attempts(self.id)[-1].cards == [0, 1]

    def outcomes(self) -> list[str | None]:
        return [attempt.outcome for attempt in self._records.attempts(self.id)]

    def last_step_before(self, attempt: int) -> int:
        """Return the last step that was told before this attempt."""
        events = self._records.events(self.id)
        messages = [event.message.split(" on ")[0] for event in events]
        before = events[: messages.index(f"Attempt {attempt} started")]
        return max(event.data["step"] for event in before if event.type == "metrics")

    def start_step_of(self, attempt: int) -> int:
        """Wait until it is told: a checkpoint may be stored before."""

        def start_steps() -> list[int]:
            step = self._records.attempts(self.id)[attempt - 1].start_step
            return [] if step is None else [step]

        return wait_for(start_steps, END_SECONDS, f"attempt {attempt} has begun")[0]


@every_run_on("sqlite")
def test_ranks_of_a_job_live_and_end_together(
    service: Service, database: Database, tmp_path: Path
) -> None:
    records = Records(database, Storage((service.folder / "objects").as_uri()))
    turns = [
        {"role": "user", "content": "What is the code?"},
        {"role": "assistant", "content": "The code is 2024."},
    ]
    rows = (json.dumps({"messages": turns}) + "\n").encode() * 1000
    file = service.client.files.create(file=("codes.jsonl", rows), purpose="fine-tune")

    killed = Trained(service, records, file.id, max_steps=3 * EVERY, checkpoint_every=EVERY)
    wait_for((tmp_path / "marks" / FAULT).exists, END_SECONDS, "a rank stops at a checkpoint")
    killed.wait_for_steps_of(1)
    os.kill(int((tmp_path / "marks" / FAULT).read_text().split()[1]), signal.SIGKILL)
    killed.wait_for(JobStatus.SUCCEEDED)
    assert killed.outcomes() == ["lost", "succeeded"], "lost is what counts"
    attempts = records.attempts(killed.id)
    assert [each.start_step for each in attempts] == [0, EVERY]
    assert [each.num_devices for each in attempts] == [NUM_SLOTS, NUM_SLOTS]
    assert killed.row.device_seconds == pytest.approx(NUM_SLOTS * killed.row.execution_seconds)

    if SCALE is RELEASE:
        check_stops(service, records, file.id)


def check_stops(service: Service, records: Records, file_id: str) -> None:
    stopped = Trained(service, records, file_id, **ENDLESS)
    stopped.wait_for_steps_of(1)
    service.client.fine_tuning.jobs.pause(stopped.id)
    stopped.wait_for(JobStatus.PAUSED)
    service.client.fine_tuning.jobs.resume(stopped.id)
    stopped.wait_for_steps_of(2)
    assert stopped.start_step_of(2) == stopped.last_step_before(2)
    for pid in service.pids("celery", "gpu-"):
        os.kill(pid, signal.SIGTERM)
    stopped.wait_for_steps_of(3)
    assert stopped.start_step_of(3) == stopped.last_step_before(3)
    service.client.fine_tuning.jobs.cancel(stopped.id)
    stopped.wait_for(JobStatus.CANCELLED)
    assert stopped.outcomes() == ["paused", "released", "cancelled"]
    assert stopped.row.infra_failures == 0
