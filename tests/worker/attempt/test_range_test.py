"""Range tests: jobs that end with a curve and a proposal, and without a model."""

from typing import Any

from app.models import JobStatus
from falqon_core.contract.config import Recipe
from falqon_core.contract.health import HealthCode
from tests.support.backend import Backend
from tests.support.fake_trainer import FakeTrainer, range_test

RECIPE = Recipe(find_rate=True).resolved(1)


def add_range_test(backend: Backend, fake: FakeTrainer | None = None, **values: Any) -> str:
    job_id = backend.add_job(fake)
    backend.set(job_id, recipe=RECIPE, **values)
    return job_id


def test_a_range_test_ends_with_a_proposal_and_no_model(backend: Backend) -> None:
    job_id = add_range_test(backend)
    assert backend.supervisor().execute_next()
    job = backend.job(job_id)
    assert (job.status, job.fine_tuned_model_id, job.trained_tokens) == ("succeeded", None, 200)
    assert job.progress is not None
    assert job.progress.range_test == range_test()
    assert job.progress.percent == 100
    assert job.progress.cost is not None
    assert backend.checkpoints(job_id) == []
    assert backend.storage.keys(f"projects/{job.project_id}/jobs/{job_id}/1/model") == []
    assert job.result_file_id is not None, "the metrics of its steps"
    (event,) = (each for each in backend.events(job_id) if "range_test" in (each.data or {}))
    assert event.message == f"Range test: {range_test().message}"
    assert event.data["range_test"]["proposal"] == range_test().proposal
    assert backend.events(job_id)[-1].message == "The range test has ended"


def test_a_range_test_that_was_killed_begins_again(backend: Backend) -> None:
    job_id = add_range_test(backend, FakeTrainer(crash_at=4))
    backend.supervisor().execute_next()
    killed = backend.job(job_id)
    assert (killed.status, killed.attempt) == (JobStatus.QUEUED, 1)
    whole = backend.job(backend.add_job()).training_file_id  # of a trainer that is not killed
    backend.set(job_id, not_before=None, priority=1, training_file_id=whole)
    backend.supervisor().execute_next()
    assert backend.job(job_id).status == JobStatus.SUCCEEDED
    assert [attempt.start_step for attempt in backend.attempts(job_id)] == [0, 0]


def test_a_loss_that_is_meant_to_diverge_is_no_finding(backend: Backend) -> None:
    job_id = add_range_test(backend, FakeTrainer(steps=60, loss=3.0, step_seconds=0))
    backend.supervisor().execute_next()
    job = backend.job(job_id)
    assert job.progress is not None
    failing: list[HealthCode] = [each.code for each in job.progress.health if each.is_failing]
    assert failing == []
