"""What has to be true once the dust has settled, read from the database and the disk alone."""

import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from sqlalchemy import select, update

from app.base.database import now_plus
from app.base.storage import keys
from app.garbage import collector, orphans
from app.models import (
    Artifact,
    Checkpoint,
    Event,
    Installation,
    Job,
    JobStatus,
    Model,
    Orphan,
    UsageDay,
)
from app.models.job_lifecycle import TERMINAL
from falqon_core.contract.layout import MANIFEST
from tests.support.fake_trainer import FakeTrainer, sha256, weights_of
from tests.support.records import Records

OWN = {keys.probe(), keys.installation(), keys.generation()}  # what the storage holds of its own
OLD = timedelta(days=2).total_seconds()
STORED_SECONDS = 1.5  # a checkpoint of the fake trainer, on a busy machine


def check_all(
    records: Records,
    fakes: Mapping[str, FakeTrainer],
    expected: Mapping[str, JobStatus] | None = None,
    *,
    database_stood: bool = True,
) -> Counter[str]:
    """Each job has one recorded result (success, where not said otherwise), whole events, and no
    work lost but what a fault may cost.

    That is less than two checkpoint intervals, where checkpoints could be recorded all the time. A
    fake that races makes any number of steps while a checkpoint is being stored; of that one it is
    the time that is bounded.
    """
    tally: Counter[str] = Counter()
    for job_id, fake in fakes.items():
        job = records.job(job_id)
        status = (expected or {}).get(job_id, JobStatus.SUCCEEDED)
        assert job.status is status or job.status == status, (
            f"{job_id} is {job.status} ({job.error_code}), not {status}"
        )
        check_events(records, job)
        check_attempts(records, job)
        check_usage(records, job)
        repeated, overdue = check_lost_work(records, job, fake.checkpoint_every)
        soon = (
            repeated < 2 * fake.checkpoint_every if fake.step_seconds else overdue < STORED_SECONDS
        )
        assert soon or not database_stood, (
            f"{job_id}: {repeated} steps repeated, the next checkpoint was due for {overdue} s"
        )
        check_result(records, job, fake)
        tally.update(jobs=1, attempts=job.attempt, succeeded=job.status == JobStatus.SUCCEEDED)
        tally["most_steps_repeated"] = max(tally["most_steps_repeated"], repeated)
    check_storage(records)
    return tally


def check_events(records: Records, job: Job) -> None:
    events = records.events(job.id)
    assert [event.seq for event in events] == list(range(1, job.last_event_seq + 1)), (
        f"{job.id}: a gap or a double"
    )
    attempts = [event.attempt for event in events]
    assert attempts == sorted(attempts), (
        f"{job.id}: an event of an earlier attempt came after a later one had begun"
    )
    for number in set(attempts):
        data = [event.data or {} for event in events if event.attempt == number]
        steps = [values["step"] for values in data if "train_loss" in values]
        lost = sum(values.get("lost_events", 0) for values in data)  # given up, and said so
        assert steps == sorted(set(steps)), f"{job.id}: steps of attempt {number}: {steps}"
        assert not steps or steps[-1] - steps[0] + 1 - len(steps) <= lost, (
            f"{job.id}: steps missing in attempt {number}: {steps}"
        )


def check_attempts(records: Records, job: Job) -> None:
    attempts = records.attempts(job.id)
    assert [attempt.number for attempt in attempts] == list(range(1, job.attempt + 1))
    assert job.lease_owner is None
    open_ones = [attempt.number for attempt in attempts if attempt.ended_at is None]
    assert not open_ones, f"{job.id}: attempts without an end: {open_ones}"
    winners = [attempt.number for attempt in attempts if attempt.outcome == "succeeded"]
    assert winners == ([job.attempt] if job.status == JobStatus.SUCCEEDED else []), (
        f"{job.id}: succeeded in attempts {winners}"
    )


def check_usage(records: Records, job: Job) -> None:
    """What is booked by day is what the job says that it cost, whatever happened between."""
    with records.database.read() as session:
        days = session.scalars(select(UsageDay).where(UsageDay.job_id == job.id)).all()
    accrued = job.progress.cost.accrued if job.progress and job.progress.cost else 0
    assert sum(day.cost for day in days) == accrued, f"{job.id}: booked {days}, accrued {accrued}"


def check_lost_work(records: Records, job: Job, checkpoint_every: int) -> tuple[int, float]:
    """An attempt begins at the newest checkpoint that was stored before it; returns the most steps
    that one of them had to repeat, and the longest that an attempt, as its events were written,
    went on beyond a checkpoint that was then not there.

    A checkpoint that was still being stored when its worker died does not count.
    """
    events = records.events(job.id)
    most, longest = 0, 0.0
    for attempt in records.attempts(job.id):
        earlier = [event for event in events if event.attempt < attempt.number]
        stored = [
            event.data["step"]
            for event in earlier
            if event.message.startswith("Checkpoint of step")
            and event.level == "info"
            and event.data
        ]
        done = [event.data["step"] for event in earlier if event.type == "metrics" and event.data]
        if attempt.start_step is not None:
            assert attempt.start_step == max(stored, default=0), (
                f"{job.id}: attempt {attempt.number} from {attempt.start_step} of {stored}"
            )
            most = max(most, max(done, default=0) - attempt.start_step)
            due = attempt.start_step + checkpoint_every
            for number in range(1, attempt.number):
                beyond = [
                    event.created_at
                    for event in earlier
                    if event.attempt == number and event.type == "metrics" and step_of(event) >= due
                ]
                longest = max(longest, (beyond[-1] - beyond[0]).total_seconds() if beyond else 0.0)
    return most, longest


def step_of(event: Event) -> int:
    return int((event.data or {}).get("step", 0))


def check_result(records: Records, job: Job, fake: FakeTrainer) -> None:
    """Exactly one model with bit-equal weights for a success, and none for anything else."""
    with records.database.read() as session:
        models = session.scalars(select(Model.id).where(Model.job_id == job.id)).all()
        artifacts = session.scalars(select(Artifact).where(Artifact.model_id.in_(models))).all()
    assert list(models) == (
        [job.fine_tuned_model_id] if job.status == JobStatus.SUCCEEDED else []
    ), f"{job.id}: {models}"
    for artifact in artifacts:
        path = records.storage.local_path(artifact.storage_key)
        assert path is not None
        assert (path.stat().st_size, sha256(path)) == (artifact.bytes, artifact.sha256), (
            artifact.storage_key
        )
    if job.status == JobStatus.SUCCEEDED:
        assert records.weights(job.id) == weights_of(fake.steps), (
            f"{job.id}: other weights than those of an undisturbed training"
        )


def check_storage(records: Records) -> None:
    """Every row has its bytes, and what has no row is collected within a day, here by making
    everything two days old.
    """
    with records.database.read() as session:
        checkpoints = session.scalars(select(Checkpoint)).all()
        live = session.scalar(select(Job.id).where(Job.status.not_in(TERMINAL)).limit(1))
    for checkpoint in checkpoints:
        folder = records.storage.local_path(checkpoint.storage_prefix)
        assert folder is not None
        assert sha256(folder / MANIFEST) == checkpoint.manifest_sha256
        for name, entry in json.loads((folder / MANIFEST).read_bytes())["files"].items():
            assert sha256(folder / name) == entry["sha256"], f"{checkpoint.storage_prefix}/{name}"
    if live is None:
        check_nothing_nameless(records)


def check_nothing_nameless(records: Records) -> None:
    root = records.storage.local_root
    assert root is not None
    for path in root.rglob("*"):
        if path.is_file():
            os.utime(path, times=(time.time() - OLD,) * 2)
    with records.database.transaction() as session:
        # of an API that was killed
        session.execute(update(Installation).values(collecting_until=None))
    collector.confirm(records.database, records.storage)
    with records.database.transaction() as session:
        session.execute(update(Orphan).values(due_at=now_plus(-1)))
    while orphans.sweep(records.database, records.storage):
        pass
    stored = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} - OWN
    with records.database.read() as session:
        assert orphans.find_referenced(session, stored) == stored, "bytes that nothing names"


def state_of(records: Records, job_id: str) -> tuple[object, ...]:
    """Everything that is recorded of a job, and the bytes below its name; for what must not change
    any more.
    """
    job = records.job(job_id)
    rows = [
        sorted(
            repr({name: value for name, value in vars(row).items() if not name.startswith("_")})
            for row in table
        )
        for table in (
            [job],
            records.events(job_id),
            records.attempts(job_id),
            records.checkpoints(job_id),
        )
    ]
    folder = records.storage.local_path(f"projects/{job.project_id}/jobs/{job_id}")
    assert folder is not None
    return (*rows, bytes_below(folder / str(job.attempt)))


def bytes_below(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in folder.rglob("*")
        if path.is_file()
    }
