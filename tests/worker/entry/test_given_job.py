"""`falqon worker --job ID`: an outer scheduler has chosen the job."""

import json
import signal
from datetime import timedelta

import pytest
from sqlalchemy import update

from app.base.database import now
from app.jobs.given_job import find_obstacle
from app.jobs.next_job import DeviceOffer
from app.models import Desired, JobStatus, Project
from tests.support.backend import Backend
from tests.support.fake_trainer import FakeTrainer
from tests.support.forks import Fork
from tests.support.waiting import wait_for
from tests.worker.entry.test_once import LONG, WAIT_SECONDS, log_of, start
from worker.entry.once import OnceExit


def start_for(backend: Backend, job_id: str, wait: str = "30") -> Fork:
    return start(backend, wait, "--job", job_id)


def reasons_of(backend: Backend) -> list[str]:
    lines = [json.loads(line) for line in log_of(backend).splitlines() if line.startswith("{")]
    return [line["reason"] for line in lines if line.get("event") == "the job does not begin here"]


def test_only_the_given_job_is_executed_whichever_is_next(embedded_backend: Backend) -> None:
    backend = embedded_backend
    first, given = backend.add_job(), backend.add_job(FakeTrainer(user_error_at=3))
    backend.set(first, priority=10)
    assert start_for(backend, given).wait(WAIT_SECONDS) == OnceExit.JOB_FAILED
    assert backend.job(first).status == JobStatus.QUEUED
    assert start_for(backend, first).wait(WAIT_SECONDS) == OnceExit.SUCCEEDED
    assert start_for(backend, first, "600").wait(WAIT_SECONDS) == OnceExit.NOTHING_QUEUED
    assert start_for(backend, "ftjob-unknown", "600").wait(WAIT_SECONDS) == OnceExit.NOTHING_QUEUED
    assert reasons_of(backend) == ["it is succeeded", "no job has this id"]


@pytest.mark.both_databases
def test_of_two_workers_for_one_job_exactly_one_executes_it(backend: Backend) -> None:
    job_id = backend.add_job(FakeTrainer(steps=20, step_seconds=0.05))
    rivals = [start_for(backend, job_id, "600") for _ in range(2)]
    codes = sorted(rival.wait(WAIT_SECONDS) for rival in rivals)
    assert codes == [OnceExit.SUCCEEDED, OnceExit.NOTHING_QUEUED]
    assert [attempt.outcome for attempt in backend.attempts(job_id)] == [JobStatus.SUCCEEDED]
    (reason,) = reasons_of(backend)
    assert reason in ("another worker has it", "it is succeeded")


def test_sigterm_stores_a_checkpoint_and_the_next_start_continues(
    embedded_backend: Backend,
) -> None:
    backend = embedded_backend
    other, job_id = backend.add_job(), backend.add_job(LONG)
    worker = start_for(backend, job_id)
    wait_for(lambda: backend.checkpoints(job_id), WAIT_SECONDS, "a checkpoint")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(WAIT_SECONDS) == OnceExit.REQUEUED
    stored = backend.checkpoints(job_id)[-1].step
    job = backend.job(job_id)
    assert (job.status, job.infra_failures, job.progress.step) == (JobStatus.QUEUED, 0, stored)
    again = start_for(backend, job_id)
    wait_for(lambda: backend.checkpoints(job_id)[-1].step > stored, WAIT_SECONDS, "progress")
    again.send_signal(signal.SIGTERM)
    assert again.wait(WAIT_SECONDS) == OnceExit.REQUEUED
    first, second = backend.attempts(job_id)
    assert (first.outcome, second.start_step) == ("released", stored)
    assert backend.job(other).attempt == 0


def test_a_project_at_its_ceiling_is_not_exceeded_by_a_given_job(
    embedded_backend: Backend,
) -> None:
    backend = embedded_backend
    running, job_id = backend.add_job(LONG), backend.add_job()
    with backend.database.transaction() as session:
        session.execute(update(Project).values(max_running_gpus=1))
    holder = start_for(backend, running)
    wait_for(lambda: backend.job(running).status == JobStatus.RUNNING, WAIT_SECONDS, "a start")
    assert start_for(backend, job_id, "1").wait(WAIT_SECONDS) == OnceExit.NOTHING_QUEUED
    assert "(max_running_gpus), 0 are left and it needs 1" in reasons_of(backend)[0]
    waiting = start_for(backend, job_id, "600")
    backend.set(running, desired=Desired.CANCEL)
    assert holder.wait(WAIT_SECONDS) == OnceExit.STOPPED
    assert waiting.wait(WAIT_SECONDS) == OnceExit.SUCCEEDED


@pytest.mark.both_databases
def test_what_keeps_a_machine_from_a_job_is_said_and_no_job_is_waited_for_in_vain(
    backend: Backend,
) -> None:
    with backend.database.read() as session:
        later = now(session) + timedelta(hours=1)
    cases: list[tuple[dict[str, object], str, bool]] = [
        ({"num_gpus": 4}, "it needs 4 GPUs, and this machine offers 2", False),
        ({"gpu": "l40s"}, "it waits for the device 'l40s', and this machine has 'h100'", False),
        ({"status": JobStatus.PAUSED}, "it is paused", False),
        ({"desired": Desired.CANCEL}, "its user asks to cancel it", False),
        ({"status": JobStatus.VALIDATING_FILES}, "its files are still being checked", True),
        ({"not_before": later}, "it is retried later, after a lost attempt", True),
    ]
    for columns, reason, may_pass in cases:
        job_id = backend.add_job()
        backend.set(job_id, **columns)
        with backend.database.read() as session:
            assert find_obstacle(session, DeviceOffer("h100", 2), job_id) == (reason, may_pass)
    free = backend.add_job()
    backend.set(free, num_gpus=2, gpu="h100")
    with backend.database.read() as session:
        assert find_obstacle(session, DeviceOffer("h100", 2), free) is None
