"""A worker that dies at a named point: another one takes the job over and ends with the bytes of an undisturbed training."""

from datetime import timedelta
from pathlib import Path

import pytest

from app.garbage import orphans
from app.jobs import claims
from app.models import JobStatus
from tests.support.house import House
from tests.support.toy_trainer import Toy, weights_of
from tests.support.waiting import wait_for

STEPS = 60
TOY = Toy(steps=STEPS, step_seconds=0.02, checkpoint_every=10)
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
def silent_house(embedded_house: House) -> House:
    """Its Redis is dead, and a lease is short."""
    settings = {"redis_url": "redis://127.0.0.1:1/0", "lease": timedelta(seconds=3)}
    embedded_house.settings = embedded_house.settings.model_copy(update=settings)
    return embedded_house


def rescue(house: House) -> list[str]:
    with house.database.transaction() as session:
        return claims.rescue(session, max_infra_failures=3)


@pytest.mark.parametrize("point", DIES)
def test_a_worker_that_dies_here_costs_one_attempt(
    silent_house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    house = silent_house
    job_id = house.add_job(TOY)
    environment(monkeypatch, f"{point}=exit", tmp_path / "marks")
    assert house.start_worker().wait(60) == 137
    assert (tmp_path / "marks" / point).exists()
    wait_for(lambda: not house.trainers(), 10, "the trainer dies with its worker")
    wait_for(lambda: rescue(house) == [job_id], 20, "the lease ends")
    assert house.supervisor(lease=timedelta(seconds=60)).execute_next()
    job = house.job(job_id)
    assert (job.status, job.attempt, house.weights(job_id)) == (JobStatus.SUCCEEDED, 2, weights_of(STEPS))
    seqs = [event.seq for event in house.events(job_id)]
    assert seqs == list(range(1, job.last_event_seq + 1))
    with house.database.read() as session:
        winner = set(house.storage.keys(f"projects/{job.project_id}/jobs/{job_id}/2"))
        assert orphans.named(session, winner) == winner


def test_a_worker_that_dies_after_it_has_finished_costs_nothing(
    silent_house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = silent_house
    job_id = house.add_job(TOY)
    environment(monkeypatch, "after_finish=exit", tmp_path / "marks")
    assert house.start_worker().wait(60) == 137
    job = house.job(job_id)
    assert (job.status, job.attempt, house.weights(job_id)) == (JobStatus.SUCCEEDED, 1, weights_of(STEPS))
    assert rescue(house) == []
