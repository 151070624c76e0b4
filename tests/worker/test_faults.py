"""A worker that dies at a named point: another one takes the job over and ends with the bytes of an
undisturbed training.
"""

from pathlib import Path

import pytest

from app.base.database import now_plus
from app.garbage import orphans
from app.jobs import claims
from app.models import JobStatus
from tests.support.backend import Backend
from tests.support.fake_trainer import FakeTrainer, weights_of
from tests.support.waiting import wait_for

STEPS = 60
FAKE = FakeTrainer(steps=STEPS, step_seconds=0.02, checkpoint_every=10)
DIES = (
    "after_claim_commit",
    "in_batch",
    "before_checkpoint_row",
    "during_result_upload",
    "before_finish",
)


def environment(monkeypatch: pytest.MonkeyPatch, armed: str, marks: Path) -> None:
    monkeypatch.setenv("FAULT_POINTS", armed)
    monkeypatch.setenv("FAULT_MARKS", str(marks))


@pytest.fixture
def silent_backend(embedded_backend: Backend) -> Backend:
    """Its Redis is dead."""
    settings = {"redis_url": "redis://127.0.0.1:1/0"}
    embedded_backend.settings = embedded_backend.settings.model_copy(update=settings)
    return embedded_backend


def rescue(backend: Backend) -> list[str]:
    with backend.database.transaction() as session:
        return claims.rescue(session, max_infra_failures=3)


@pytest.mark.parametrize("point", DIES)
def test_a_worker_that_dies_at_a_fault_point_costs_one_attempt(
    silent_backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    backend = silent_backend
    job_id = backend.add_job(FAKE)
    environment(monkeypatch, f"{point}=exit", tmp_path / "marks")
    assert backend.start_worker().wait(60) == 137
    assert (tmp_path / "marks" / point).exists()
    wait_for(lambda: not backend.trainers(), 10, "the trainer dies with its worker")
    backend.set(job_id, lease_expires_at=now_plus(-1))  # what time would do
    assert rescue(backend) == [job_id]
    assert backend.supervisor().execute_next()
    job = backend.job(job_id)
    assert (job.status, job.attempt, backend.weights(job_id)) == (
        JobStatus.SUCCEEDED,
        2,
        weights_of(STEPS),
    )
    seqs = [event.seq for event in backend.events(job_id)]
    assert seqs == list(range(1, job.last_event_seq + 1))
    with backend.database.read() as session:
        winner = set(backend.storage.keys(f"projects/{job.project_id}/jobs/{job_id}/2"))
        assert orphans.find_referenced(session, winner) == winner


def test_a_worker_that_dies_after_it_has_finished_costs_nothing(
    silent_backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = silent_backend
    job_id = backend.add_job(FAKE)
    environment(monkeypatch, "after_finish=exit", tmp_path / "marks")
    assert backend.start_worker().wait(60) == 137
    job = backend.job(job_id)
    assert (job.status, job.attempt, backend.weights(job_id)) == (
        JobStatus.SUCCEEDED,
        1,
        weights_of(STEPS),
    )
    assert rescue(backend) == []
