"""What one attempt measures is what the next job of its kind is estimated by."""

import pytest

from app.estimates import repository
from app.estimates import service as estimates
from app.jobs import queue_forecast
from app.models import DEFAULT_PROJECT_ID, JobStatus, Model, Project
from falqon_core.contract.config import Recipe
from falqon_core.estimate.estimate import Estimate
from falqon_core.estimate.long_text import EpochAmount
from falqon_core.records.file_check import FileReport
from tests.support.backend import BASE_MODEL, Backend
from tests.support.fake_trainer import FakeTrainer

REPORT = FileReport(shape="text", num_records=20, num_characters=720)


def estimate(backend: Backend) -> Estimate:
    with backend.database.read() as session:
        model = session.get_one(Model, BASE_MODEL)
        return estimates.estimate_job(
            session,
            model,
            Recipe().resolved(20),
            REPORT,
            backend.settings,
            amount=EpochAmount(20, 200),
        )


def test_an_attempt_keeps_its_rate_and_the_job_is_compared_with_its_estimate(
    backend: Backend,
) -> None:
    guessed = estimate(backend)
    assert (guessed.basis, guessed.tokens_basis) == ("roofline", "counted")
    job_id = backend.add_job(FakeTrainer(steps=20, step_seconds=0.01))
    backend.set(job_id, estimate=guessed)
    assert backend.supervisor().execute_next()
    (attempt,) = backend.attempts(job_id)
    job = backend.job(job_id)
    assert (attempt.base_model_id, attempt.method, attempt.tokens) == (BASE_MODEL, "falqon", 200)
    assert attempt.train_seconds >= 0.2
    assert attempt.overhead_seconds > 0
    assert attempt.train_seconds + attempt.overhead_seconds == pytest.approx(
        job.execution_seconds, abs=0.2
    )
    assert job.actual.seconds == pytest.approx(job.execution_seconds, abs=0.2)
    assert job.actual.ratio == pytest.approx(job.actual.seconds / guessed.seconds.expected, rel=0.5)
    assert job.actual.cost == job.progress.cost.accrued
    measured = estimate(backend)
    assert (measured.basis, measured.n, measured.overhead_seconds) == (
        "measured",
        1,
        attempt.overhead_seconds,
    )
    assert measured.tokens_per_second == pytest.approx(
        attempt.tokens / attempt.train_seconds, abs=0.1
    )
    assert measured.seconds.low < measured.seconds.expected < measured.seconds.high


def test_an_attempt_that_ended_badly_measures_nothing(embedded_backend: Backend) -> None:
    backend = embedded_backend
    job_id = backend.add_job(FakeTrainer(user_error_at=3))
    assert backend.supervisor().execute_next()
    (attempt,) = backend.attempts(job_id)
    assert (attempt.tokens, attempt.overhead_seconds) == (20, None)
    with backend.database.read() as session:
        assert repository.samples(session, BASE_MODEL, "falqon", "cpu", 2) == []


def test_a_worker_that_looks_is_counted(embedded_backend: Backend) -> None:
    backend = embedded_backend
    assert not backend.supervisor().execute_next()
    backend.set(backend.add_job(), status=JobStatus.PAUSED)
    with backend.database.read() as session:
        queue = queue_forecast.read_queue(session, backend.settings)
        project = session.get_one(Project, DEFAULT_PROJECT_ID)
        place = queue.position_if_added(project, 0)
    assert (place.position, place.num_workers) == (1, 1)
