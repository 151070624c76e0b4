import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from app import migrate
from app.database import Database
from app.jobs import claims
from app.models import Desired, JobStatus
from app.storage import keys
from tests.support.house import House
from tests.support.postgres import PostgresServer
from tests.support.toy_trainer import Toy, weights_of
from tests.support.waiting import wait_for
from worker.attempt.supervisor import Supervisor

# The same weights at two speeds.
QUICK, INTERRUPTIBLE = (Toy(steps=120, step_seconds=seconds, checkpoint_every=20) for seconds in (0, 0.02))
SLOW = Toy(steps=2000, step_seconds=0.02)


@contextmanager
def executing(supervisor: Supervisor) -> Iterator[None]:
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(supervisor.execute_next)
        yield
        assert future.result(20) is True


def test_a_job_becomes_a_model(house: House) -> None:
    job_id = house.add_job()
    assert house.supervisor().execute_next()
    job = house.job(job_id)
    assert (job.status, job.error_code, job.trained_tokens, job.infra_failures) == (JobStatus.SUCCEEDED, None, 200, 0)
    assert job.fine_tuned_model_id == f"ft:toy/base:default::{job_id[-8:]}"
    assert job.lease_owner is None
    assert job.finished_at is not None
    assert len(house.weights(job_id)) == 64
    assert [(a.number, a.outcome, a.start_step) for a in house.attempts(job_id)] == [(1, "succeeded", 0)]
    assert [c.step for c in house.checkpoints(job_id)] == [15, 20]
    stored = house.storage.keys(f"projects/{job.project_id}/jobs/{job_id}/1/checkpoints")
    assert {key.split("/")[-2] for key in stored} == {"15", "20"}, "old checkpoints must be removed"
    assert house.supervisor().execute_next() is False


def test_progress_and_events_tell_the_story(house: House) -> None:
    job_id = house.add_job()
    house.supervisor().execute_next()
    events = house.events(job_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    steps = [event for event in events if event.type == "metrics" and "train_loss" in event.data]
    assert [event.data["step"] for event in steps] == list(range(1, 21))
    assert steps[-1].message == "Step 20/20: training loss=0.05"
    assert {"train_mean_token_accuracy", "learning_rate", "grad_norm", "tokens_per_second", "eta_seconds", "cost_accrued"} <= set(
        steps[9].data
    )
    assert any(event.data and event.data.get("valid_loss") == 0.25 for event in events if event.type == "metrics")
    assert any("Checkpoint of step 15" in event.message for event in events)
    progress = house.job(job_id).progress
    assert progress is not None
    assert (progress["step"], progress["total_steps"], progress["percent"], progress["eta_seconds"]) == (20, 20, 100.0, 0.0)
    cost = progress["cost"]
    assert cost["accrued"] == cost["projected"]
    assert Decimal(cost["accrued"]) >= 0
    assert house.job(job_id).device_seconds > 0.2


def test_the_trainer_sees_no_secret(embedded_house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house = embedded_house
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
    job_id = house.add_job()
    house.supervisor().execute_next()
    (environment,) = [event.message for event in house.events(job_id) if event.message.startswith("environment:")]
    assert "PATH" in environment
    assert not {"DATABASE_URL", "REDIS_URL", "STORAGE_URL", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"} & set(environment.split())
    assert "FALQON" not in environment


@pytest.mark.parametrize(("wish", "status"), [(Desired.CANCEL, JobStatus.CANCELLED), (Desired.PAUSE, JobStatus.PAUSED)])
def test_a_wish_stops_the_trainer(house: House, wish: Desired, status: JobStatus) -> None:
    job_id = house.add_job(SLOW)
    with executing(house.supervisor()):
        house.wait_for_step(job_id, 1)
        house.set(job_id, desired=wish)
    job = house.job(job_id)
    assert (job.status, job.infra_failures) == (status, 0)
    assert house.trainers() == []
    assert house.attempts(job_id)[0].outcome == status
    assert house.checkpoints(job_id)[-1].step == job.progress["step"], "the work done so far is kept"


def test_pause_and_resume_give_the_same_bytes(house: House) -> None:
    whole = house.add_job(QUICK)
    house.supervisor().execute_next()
    job_id = house.add_job(INTERRUPTIBLE)
    with executing(house.supervisor()):
        house.wait_for_step(job_id, 1)
        house.set(job_id, desired=Desired.PAUSE)
    assert 0 < house.job(job_id).progress["step"] < QUICK.steps
    assert house.supervisor().execute_next() is False, "a paused job is not taken"
    house.set(job_id, desired=Desired.RUN, status=JobStatus.QUEUED)
    house.supervisor().execute_next()
    assert house.job(job_id).status == JobStatus.SUCCEEDED
    assert house.weights(job_id) == house.weights(whole)
    assert any("continues from step" in event.message for event in house.events(job_id))
    steps = [event.data["step"] for event in house.events(job_id) if event.type == "metrics" and "train_loss" in event.data]
    assert steps == list(range(1, QUICK.steps + 1))
    first, second = house.attempts(job_id)
    assert first.outcome == "paused"
    assert second.start_step > 0


def test_a_user_error_is_final(house: House) -> None:
    job_id = house.add_job(Toy(user_error_at=3))
    house.supervisor().execute_next()
    job = house.job(job_id)
    assert (job.status, job.error_code, job.error_param) == (JobStatus.FAILED, "loss_not_finite", "learning_rate")
    assert job.error_message == "The loss became infinite."
    assert house.supervisor().execute_next() is False


def test_a_killed_trainer_continues_from_its_checkpoint(embedded_house: House) -> None:
    house = embedded_house
    whole, broken = house.add_job(QUICK), house.add_job(INTERRUPTIBLE)
    supervisor = house.supervisor()
    assert supervisor.execute_next()
    with executing(supervisor):
        house.wait_for_checkpoint(broken)
        for pid in house.trainers():
            os.kill(pid, signal.SIGKILL)
    job = house.job(broken)
    assert (job.status, job.infra_failures) == (JobStatus.QUEUED, 1)
    assert house.attempts(broken)[0].error_code == "trainer_killed"
    assert supervisor.execute_next()
    assert house.job(broken).status == JobStatus.SUCCEEDED
    assert house.attempts(broken)[1].start_step >= 20
    assert house.weights(broken) == house.weights(whole)


def test_a_job_that_always_breaks_fails_in_the_end(embedded_house: House) -> None:
    house = embedded_house
    job_id = house.add_job(Toy(damaged_export=True, steps=1))
    supervisor = house.supervisor(max_infra_failures=1)
    while supervisor.execute_next():
        pass
    job = house.job(job_id)
    assert (job.status, job.attempt, job.error_code) == (JobStatus.FAILED, 2, "internal_error")
    assert house.storage.keys(f"projects/{job.project_id}/jobs/{job_id}/1/model") == [], "nothing half-made stays"


def test_a_model_that_is_not_what_was_trained_is_never_handed_out_nor_tried_again(house: House) -> None:
    job_id = house.add_job(Toy(mismatch=True, steps=5))
    house.supervisor().execute_next()
    job = house.job(job_id)
    assert (job.status, job.attempt, job.error_code, job.fine_tuned_model_id) == (JobStatus.FAILED, 1, "certificate_mismatch", None)
    assert job.error_message == "the exported files are not the model that was trained: loss"
    assert house.storage.keys(f"projects/{job.project_id}/jobs/{job_id}/1/model") == []
    assert [checkpoint.step for checkpoint in house.checkpoints(job_id)] == [5], "what was learned is not lost"


def test_a_trainer_that_does_not_obey_is_killed(embedded_house: House) -> None:
    house = embedded_house
    job_id = house.add_job(SLOW.model_copy(update={"deaf": True}))
    with executing(house.supervisor()):
        house.wait_for_step(job_id, 1)
        house.set(job_id, desired=Desired.CANCEL)
    assert house.job(job_id).status == JobStatus.CANCELLED
    assert house.trainers() == []


def test_a_trainer_that_hangs_is_killed_and_the_job_tried_again(house: House) -> None:
    job_id = house.add_job(INTERRUPTIBLE.model_copy(update={"hang_at": 50}))
    supervisor = house.supervisor(hang=timedelta(seconds=1))
    supervisor.execute_next()
    assert house.trainers() == []
    job, first = house.job(job_id), house.attempts(job_id)[0]
    assert (job.status, job.infra_failures) == (JobStatus.QUEUED, 1)
    assert (first.outcome, first.error_code) == ("lost", "trainer_hung")
    supervisor.execute_next()
    assert house.job(job_id).status == JobStatus.SUCCEEDED
    assert house.attempts(job_id)[1].start_step == 40
    assert house.weights(job_id) == weights_of(QUICK.steps)


def test_a_drain_gives_the_job_back_for_nothing(embedded_house: House) -> None:
    house = embedded_house
    drain = threading.Event()
    job_id = house.add_job(SLOW)
    with executing(house.supervisor(drain)):
        house.wait_for_step(job_id, 1)
        drain.set()
    job = house.job(job_id)
    assert (job.status, job.infra_failures, job.lease_owner) == (JobStatus.QUEUED, 0, None)
    assert house.attempts(job_id)[0].outcome == "released"
    assert house.checkpoints(job_id)


def test_whoever_lost_the_lease_writes_nothing_more(house: House) -> None:
    job_id = house.add_job(SLOW)
    with executing(house.supervisor()):
        house.wait_for_step(job_id, 1)
        house.set(job_id, attempt=2, lease_owner="somebody else")
        wait_for(lambda: not house.trainers(), what="the ghost's trainer dies")
        before = house.job(job_id).last_event_seq
    job = house.job(job_id)
    assert (job.status, job.lease_owner, job.last_event_seq) == (JobStatus.RUNNING, "somebody else", before)


def test_without_a_confirmed_renewal_the_worker_stops_itself(embedded_house: House) -> None:
    """The database answers everything but the renewals; the fence must come before the lease ends."""
    house = embedded_house
    job_id = house.add_job(SLOW)
    with executing(house.supervisor(heartbeat=timedelta(seconds=60), lease=timedelta(seconds=2))):
        wait_for(house.trainers, what="a trainer")
        wait_for(lambda: not house.trainers(), 3, "the trainer is killed at three quarters of the lease")
        with house.database.transaction() as session:
            assert claims.rescue(session, max_infra_failures=3) == [], "the lease must still be running"
    assert house.job(job_id).status == JobStatus.RUNNING


def test_a_damaged_checkpoint_falls_back_to_the_one_before(embedded_house: House) -> None:
    house = embedded_house
    job_id = house.add_job(Toy(crash_at=13))
    supervisor = house.supervisor()
    supervisor.execute_next()
    newest = house.checkpoints(job_id)[-1]
    house.damage(f"{newest.storage_prefix}/state.bin")
    supervisor.execute_next()
    assert house.attempts(job_id)[1].start_step == 5
    assert house.job(job_id).status == JobStatus.SUCCEEDED


def test_the_best_checkpoint_is_kept_and_staged_beside_the_newest(embedded_house: House) -> None:
    house = embedded_house
    job_id = house.add_job(Toy(steps=30, best_at=5, crash_at=23))
    supervisor = house.supervisor()
    supervisor.execute_next()
    assert [checkpoint.step for checkpoint in house.checkpoints(job_id)] == [5, 15, 20]
    supervisor.execute_next()
    assert house.job(job_id).status == JobStatus.SUCCEEDED
    assert "checkpoints: 20 5" in [event.message for event in house.events(job_id)]
    assert [checkpoint.step for checkpoint in house.checkpoints(job_id)] == [5, 25, 30]


def test_inputs_are_verified(embedded_house: House) -> None:
    house = embedded_house
    job_id = house.add_job()
    house.damage(keys.base_model_file("toy/base", "model.safetensors"))
    house.supervisor(max_infra_failures=0).execute_next()
    job = house.job(job_id)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "internal_error")
    assert list((house.settings.work_dir / "attempts").glob("[!.]*")) == []


def test_a_job_whose_file_is_missing_in_the_storage_fails_with_that_code(embedded_house: House) -> None:
    house = embedded_house
    job_id = house.add_job()
    house.storage.delete(keys.file_content(house.job(job_id).project_id, house.job(job_id).training_file_id))
    supervisor = house.supervisor(max_infra_failures=2)
    while supervisor.execute_next():
        pass
    job = house.job(job_id)
    assert (job.status, job.attempt, job.error_code) == (JobStatus.FAILED, 3, "bytes_missing")


def test_a_database_that_is_away_loses_no_event_and_stops_no_trainer(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.attempt.spool.IN_MEMORY", 5)  # the rest goes to disk
    url = postgres.create_database("restarted")
    database = Database(url)
    migrate.upgrade(database)
    house = House(tmp_path / "data", database, url)
    job_id = house.add_job(INTERRUPTIBLE)
    with executing(house.supervisor(lease=timedelta(seconds=120))):
        house.wait_for_step(job_id, 1)
        postgres.stop(signal.SIGQUIT)
        try:
            wait_for(lambda: list(house.settings.work_dir.rglob("events.spool")), what="events are kept on disk")
            wait_for(lambda: not house.trainers(), what="the trainer goes on to its end")
        finally:
            postgres.start()
    steps = [event.data["step"] for event in house.events(job_id) if event.type == "metrics" and "train_loss" in event.data]
    job = house.job(job_id)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1)
    assert steps == list(range(1, QUICK.steps + 1))
    assert [checkpoint.step for checkpoint in house.checkpoints(job_id)] == [100, 120]
    database.dispose()


def test_a_job_that_crashes_the_same_way_at_once_is_not_tried_for_ever(house: House) -> None:
    job_id = house.add_job(Toy(damaged_export=True, steps=1))
    supervisor = house.supervisor()
    assert supervisor.execute_next()
    assert supervisor.execute_next()
    assert supervisor.execute_next() is False
    job = house.job(job_id)
    assert (job.status, job.attempt, job.error_code) == (JobStatus.FAILED, 2, "internal_error")


def test_a_trainer_that_crashes_the_same_way_before_its_first_step_is_not_tried_for_ever(house: House) -> None:
    job_id = house.add_job()
    supervisor = house.supervisor(trainer_command=[sys.executable, "-c", "raise SystemExit(70)"])
    while supervisor.execute_next():
        pass
    job = house.job(job_id)
    assert (job.status, job.attempt, job.error_code) == (JobStatus.FAILED, 2, "internal_error")
    assert [attempt.start_step for attempt in house.attempts(job_id)] == [None, None]


def test_a_worker_that_cannot_prepare_a_job_does_not_end_it_at_the_second_time(embedded_house: House) -> None:
    house = embedded_house
    job_id = house.add_job()
    house.damage(keys.base_model_file("toy/base", "model.safetensors"))
    supervisor = house.supervisor()
    while supervisor.execute_next():
        pass
    assert (house.job(job_id).status, house.job(job_id).attempt) == (JobStatus.FAILED, 4)


def test_whoever_gets_further_each_time_is_not_given_up(embedded_house: House) -> None:
    house = embedded_house
    job_id = house.add_job(Toy(crash_at=13))
    house.set(job_id, infra_failures=3)
    house.supervisor().execute_next()
    assert (house.job(job_id).status, house.job(job_id).infra_failures) == (JobStatus.QUEUED, 1)
