import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from app.base.database import Database
from app.base.storage import keys
from app.jobs import claims
from app.models import Desired, JobStatus
from tests.support.backend import Backend, processes
from tests.support.fake_trainer import FakeTrainer, weights_of
from tests.support.postgres import PostgresServer
from tests.support.schema import migrate_database
from tests.support.waiting import wait_for
from worker.attempt.supervisor import Supervisor

QUICK = FakeTrainer(steps=120, step_seconds=0, checkpoint_every=20)
SLOW = FakeTrainer(steps=2000, step_seconds=0.02)


def slow_until(file: Path) -> FakeTrainer:
    """Trains the weights of `QUICK`, and takes its time until the file is there."""
    return QUICK.model_copy(update={"step_seconds": 0.2, "run_fast": file})


@contextmanager
def executing(supervisor: Supervisor) -> Iterator[None]:
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(supervisor.execute_next)
        yield
        assert future.result(60) is True


@pytest.mark.both_databases
def test_a_job_becomes_a_model(backend: Backend) -> None:
    job_id = backend.add_job()
    assert backend.supervisor().execute_next()
    job = backend.job(job_id)
    assert (job.status, job.error_code, job.trained_tokens, job.infra_failures) == (
        JobStatus.SUCCEEDED,
        None,
        200,
        0,
    )
    assert job.fine_tuned_model_id == f"ft:fake/base:default::{job_id[-8:]}"
    assert job.lease_owner is None
    assert job.finished_at is not None
    assert len(backend.weights(job_id)) == 64
    assert [(a.number, a.outcome, a.start_step) for a in backend.attempts(job_id)] == [
        (1, "succeeded", 0)
    ]
    assert [c.step for c in backend.checkpoints(job_id)] == [15, 20]
    stored = backend.storage.keys(f"projects/{job.project_id}/jobs/{job_id}/1/checkpoints")
    assert {key.split("/")[-2] for key in stored} == {"15", "20"}, "old checkpoints must be removed"
    assert backend.supervisor().execute_next() is False


def test_progress_and_events_tell_the_story(backend: Backend) -> None:
    job_id = backend.add_job()
    backend.supervisor().execute_next()
    events = backend.events(job_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    steps = [event for event in events if event.type == "metrics" and "train_loss" in event.data]
    assert [event.data["step"] for event in steps] == list(range(1, 21))
    assert steps[-1].message == "Step 20/20: training loss=0.05"
    assert {
        "train_mean_token_accuracy",
        "learning_rate",
        "grad_norm",
        "tokens_per_second",
        "eta_seconds",
        "cost_accrued",
    } <= set(steps[9].data)
    assert any(
        event.data and event.data.get("valid_loss") == 0.25
        for event in events
        if event.type == "metrics"
    )
    assert any("Checkpoint of step 15" in event.message for event in events)
    progress = backend.job(job_id).progress
    assert progress is not None
    assert (progress.step, progress.total_steps, progress.percent, progress.eta_seconds) == (
        20,
        20,
        100.0,
        0.0,
    )
    assert progress.cost is not None
    assert progress.cost.accrued == progress.cost.projected >= 0
    assert backend.job(job_id).device_seconds > 0.2


def test_the_trainer_sees_no_secret(
    embedded_backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = embedded_backend
    for name in (
        "DATABASE_URL",
        "REDIS_URL",
        "STORAGE_URL",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_REGION",
        "FALQON_ADMIN_KEY",
        "FALQON_SESSION_SECRET",
    ):
        monkeypatch.setenv(name, "canary")
    job_id = backend.add_job()
    backend.supervisor().execute_next()
    (environment,) = [
        event.message
        for event in backend.events(job_id)
        if event.message.startswith("environment:")
    ]
    assert "PATH" in environment
    assert not {
        "DATABASE_URL",
        "REDIS_URL",
        "STORAGE_URL",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_REGION",
    } & set(environment.split())
    assert "FALQON" not in environment


@pytest.mark.both_databases
@pytest.mark.parametrize(
    ("desired", "status"),
    [(Desired.CANCEL, JobStatus.CANCELLED), (Desired.PAUSE, JobStatus.PAUSED)],
)
def test_a_stop_request_stops_the_trainer(
    backend: Backend, desired: Desired, status: JobStatus
) -> None:
    job_id = backend.add_job(SLOW)
    with executing(backend.supervisor()):
        backend.wait_for_step(job_id, 1)
        backend.set(job_id, desired=desired)
    job = backend.job(job_id)
    assert (job.status, job.infra_failures) == (status, 0)
    assert backend.trainers() == []
    assert backend.attempts(job_id)[0].outcome == status
    assert backend.checkpoints(job_id)[-1].step == job.progress.step, "the work done so far is kept"


def test_pause_and_resume_give_the_same_bytes(backend: Backend, tmp_path: Path) -> None:
    run_fast = tmp_path / "run_fast"
    job_id = backend.add_job(slow_until(run_fast))
    with executing(backend.supervisor()):
        backend.wait_for_step(job_id, 1)
        backend.set(job_id, desired=Desired.PAUSE)
    run_fast.touch()
    assert 0 < backend.job(job_id).progress.step < QUICK.steps
    assert backend.supervisor().execute_next() is False, "a paused job is not taken"
    backend.set(job_id, desired=Desired.RUN, status=JobStatus.QUEUED)
    backend.supervisor().execute_next()
    assert backend.job(job_id).status == JobStatus.SUCCEEDED
    assert backend.weights(job_id) == weights_of(QUICK.steps)
    assert any("continues from step" in event.message for event in backend.events(job_id))
    steps = [
        event.data["step"]
        for event in backend.events(job_id)
        if event.type == "metrics" and "train_loss" in event.data
    ]
    assert steps == list(range(1, QUICK.steps + 1))
    first, second = backend.attempts(job_id)
    assert first.outcome == "paused"
    assert second.start_step > 0


def test_a_user_error_is_final(backend: Backend) -> None:
    job_id = backend.add_job(FakeTrainer(user_error_at=3))
    backend.supervisor().execute_next()
    job = backend.job(job_id)
    assert (job.status, job.error_code, job.error_param) == (
        JobStatus.FAILED,
        "loss_not_finite",
        "learning_rate",
    )
    assert job.error_message == "The loss became infinite."
    assert backend.supervisor().execute_next() is False


def test_a_model_that_is_not_what_was_trained_is_never_handed_out_nor_tried_again(
    backend: Backend,
) -> None:
    job_id = backend.add_job(FakeTrainer(mismatch=True, steps=5))
    backend.supervisor().execute_next()
    job = backend.job(job_id)
    assert (job.status, job.attempt, job.error_code, job.fine_tuned_model_id) == (
        JobStatus.FAILED,
        1,
        "certificate_mismatch",
        None,
    )
    assert job.error_message == "the exported files are not the model that was trained: loss"
    assert backend.storage.keys(f"projects/{job.project_id}/jobs/{job_id}/1/model") == []
    assert [checkpoint.step for checkpoint in backend.checkpoints(job_id)] == [5], (
        "what was learned is not lost"
    )


def test_a_trainer_that_does_not_obey_is_killed(embedded_backend: Backend) -> None:
    backend = embedded_backend
    job_id = backend.add_job(SLOW.model_copy(update={"ignores_sigterm": True}))
    with executing(backend.supervisor(stop_grace=timedelta(seconds=1.5))):
        backend.wait_for_step(job_id, 1)
        backend.set(job_id, desired=Desired.CANCEL)
    assert backend.job(job_id).status == JobStatus.CANCELLED
    assert backend.trainers() == []


def test_a_trainer_that_hangs_is_killed_and_the_job_tried_again(backend: Backend) -> None:
    job_id = backend.add_job(QUICK.model_copy(update={"hang_at": 50}))
    supervisor = backend.supervisor(hang=timedelta(seconds=1))
    supervisor.execute_next()
    assert backend.trainers() == []
    job = backend.job(job_id)
    first = backend.attempts(job_id)[0]
    assert (job.status, job.infra_failures) == (JobStatus.QUEUED, 1)
    assert (first.outcome, first.error_code) == ("lost", "trainer_hung")
    supervisor.execute_next()
    assert backend.job(job_id).status == JobStatus.SUCCEEDED
    assert backend.attempts(job_id)[1].start_step == 40
    assert backend.weights(job_id) == weights_of(QUICK.steps)


@pytest.mark.both_databases
def test_whoever_lost_the_lease_writes_nothing_more(backend: Backend) -> None:
    job_id = backend.add_job(SLOW)
    with executing(backend.supervisor()):
        backend.wait_for_step(job_id, 1)
        backend.set(job_id, attempt=2, lease_owner="somebody else")
        wait_for(lambda: not backend.trainers(), what="the zombie's trainer dies")
        before = backend.job(job_id).last_event_seq
    job = backend.job(job_id)
    assert (job.status, job.lease_owner, job.last_event_seq) == (
        JobStatus.RUNNING,
        "somebody else",
        before,
    )


def test_without_a_confirmed_renewal_the_worker_stops_itself(embedded_backend: Backend) -> None:
    """The database refuses only the renewals; the fence must come before the lease ends."""
    backend = embedded_backend
    job_id = backend.add_job(SLOW)
    with executing(backend.supervisor(heartbeat=timedelta(seconds=60), lease=timedelta(seconds=6))):
        wait_for(backend.trainers, what="a trainer")
        wait_for(
            lambda: not backend.trainers(),
            what="the trainer is killed at three quarters of the lease",
        )
        with backend.database.transaction() as session:
            assert claims.rescue(session, max_infra_failures=3) == [], (
                "the lease must still be running"
            )
    assert backend.job(job_id).status == JobStatus.RUNNING


def test_a_damaged_checkpoint_falls_back_to_the_one_before(embedded_backend: Backend) -> None:
    backend = embedded_backend
    job_id = backend.add_job(FakeTrainer(crash_at=13))
    supervisor = backend.supervisor()
    supervisor.execute_next()
    newest = backend.checkpoints(job_id)[-1]
    backend.damage(f"{newest.storage_prefix}/state.bin")
    supervisor.execute_next()
    assert backend.attempts(job_id)[1].start_step == 5
    assert backend.job(job_id).status == JobStatus.SUCCEEDED


def test_the_best_checkpoint_is_kept_and_staged_beside_the_newest(
    embedded_backend: Backend,
) -> None:
    backend = embedded_backend
    job_id = backend.add_job(FakeTrainer(steps=30, best_at=5, crash_at=23))
    supervisor = backend.supervisor()
    supervisor.execute_next()
    assert [checkpoint.step for checkpoint in backend.checkpoints(job_id)] == [5, 15, 20]
    supervisor.execute_next()
    assert backend.job(job_id).status == JobStatus.SUCCEEDED
    assert "checkpoints: 20 5" in [event.message for event in backend.events(job_id)]
    assert [checkpoint.step for checkpoint in backend.checkpoints(job_id)] == [5, 25, 30]


def test_inputs_are_verified(embedded_backend: Backend) -> None:
    backend = embedded_backend
    job_id = backend.add_job()
    backend.damage(keys.base_model_file("fake/base", "model.safetensors"))
    backend.supervisor(max_infra_failures=0).execute_next()
    job = backend.job(job_id)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "internal_error")
    assert list((backend.settings.work_dir / "attempts").glob("[!.]*")) == []


def test_a_job_whose_file_is_missing_in_the_storage_fails_with_that_code(
    embedded_backend: Backend,
) -> None:
    backend = embedded_backend
    job_id = backend.add_job()
    backend.storage.delete(
        keys.file_content(backend.job(job_id).project_id, backend.job(job_id).training_file_id)
    )
    supervisor = backend.supervisor(max_infra_failures=2)
    while supervisor.execute_next():
        pass
    job = backend.job(job_id)
    assert (job.status, job.attempt, job.error_code) == (JobStatus.FAILED, 3, "bytes_missing")


def test_a_database_that_is_away_loses_no_event_and_stops_no_trainer(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.attempt.spool.IN_MEMORY", 5)  # the rest goes to disk
    url = postgres.create_database("restarted")
    database = Database(url)
    migrate_database(database)
    backend = Backend(tmp_path / "data", database, url)
    run_fast = tmp_path / "run_fast"
    job_id = backend.add_job(slow_until(run_fast))
    with executing(backend.supervisor(lease=timedelta(seconds=120))):
        backend.wait_for_step(job_id, 1)
        postgres.stop(signal.SIGQUIT)
        run_fast.touch()
        try:
            wait_for(
                lambda: list(backend.settings.work_dir.rglob("events.spool")),
                what="events are kept on disk",
            )
            wait_for(lambda: not backend.trainers(), what="the trainer goes on to its end")
        finally:
            postgres.start()
    steps = [
        event.data["step"]
        for event in backend.events(job_id)
        if event.type == "metrics" and "train_loss" in event.data
    ]
    job = backend.job(job_id)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1)
    assert steps == list(range(1, QUICK.steps + 1))
    assert [checkpoint.step for checkpoint in backend.checkpoints(job_id)] == [100, 120]
    database.dispose()


def test_a_trainer_that_ends_with_its_worker_is_released(embedded_backend: Backend) -> None:
    """As a cluster's scheduler has it, which signals both at once."""
    backend = embedded_backend
    job_id = backend.add_job(SLOW)
    shutting_down = threading.Event()
    folder = str(backend.settings.work_dir)
    with executing(backend.supervisor(shutting_down)):
        wait_for(lambda: backend.job(job_id).progress is not None, what="the first step")
        (trainer,) = processes("fake_trainer", folder)
        shutting_down.set()
        os.kill(trainer, signal.SIGKILL)
    (attempt,) = backend.attempts(job_id)
    assert (attempt.outcome, attempt.error_code) == ("released", None)
    assert backend.job(job_id).infra_failures == 0
