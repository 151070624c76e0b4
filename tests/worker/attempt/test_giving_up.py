"""When a job that fails again and again is tried no more."""

import sys

from sqlalchemy import select

from app.base.storage import keys
from app.models import Event, JobStatus
from app.models.trainer_log import TrainerLog
from tests.support.backend import Backend
from tests.support.fake_trainer import FakeTrainer


def test_a_job_that_crashes_the_same_way_at_once_is_not_tried_for_ever(backend: Backend) -> None:
    job_id = backend.add_job(FakeTrainer(damaged_export=True, steps=1))
    supervisor = backend.supervisor()
    assert supervisor.execute_next()
    assert supervisor.execute_next()
    assert supervisor.execute_next() is False
    job = backend.job(job_id)
    assert (job.status, job.attempt, job.error_code) == (JobStatus.FAILED, 2, "internal_error")
    assert backend.storage.keys(f"projects/{job.project_id}/jobs/{job_id}/1/model") == [], (
        "nothing half-made stays"
    )


def test_a_trainer_that_crashes_the_same_way_before_its_first_step_is_not_tried_for_ever(
    backend: Backend,
) -> None:
    job_id = backend.add_job()
    program = "print('it began\\0, password=hunter22'); raise SystemExit(70)"
    supervisor = backend.supervisor(trainer_command=[sys.executable, "-c", program])
    while supervisor.execute_next():
        pass
    job = backend.job(job_id)
    assert (job.status, job.attempt, job.error_code) == (JobStatus.FAILED, 2, "internal_error")
    assert [attempt.start_step for attempt in backend.attempts(job_id)] == [None, None]
    with backend.database.read() as session:
        events = session.scalars(select(Event.data).where(Event.job_id == job_id)).all()
    logs = [data["trainer_log"] for data in events if data and "trainer_log" in data]
    assert logs == ["it began, password=***\n"] * 2
    for number in (1, 2):
        content = backend.storage.read(keys.trainer_log(job.project_id, job_id, number))
        assert content is not None
        assert TrainerLog.model_validate_json(content).head == logs[0]


def test_a_worker_that_cannot_prepare_a_job_does_not_end_it_at_the_second_time(
    embedded_backend: Backend,
) -> None:
    backend = embedded_backend
    job_id = backend.add_job()
    backend.damage(keys.base_model_file("fake/base", "model.safetensors"))
    supervisor = backend.supervisor()
    while supervisor.execute_next():
        pass
    assert (backend.job(job_id).status, backend.job(job_id).attempt) == (JobStatus.FAILED, 4)


def test_whoever_gets_further_each_time_is_not_given_up(embedded_backend: Backend) -> None:
    backend = embedded_backend
    job_id = backend.add_job(FakeTrainer(crash_at=13))
    backend.set(job_id, infra_failures=3)
    backend.supervisor().execute_next()
    assert (backend.job(job_id).status, backend.job(job_id).infra_failures) == (JobStatus.QUEUED, 1)
