"""A job on several GPUs: claimed with all of them, told to the trainer, charged for each."""

import tempfile
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import update

from app.jobs import claims
from app.models import JobStatus, Worker
from app.models.worker import Drain
from app.workers import service as workers
from tests.support.backend import Backend, supervise
from worker.attempt.supervisor import Supervisor
from worker.machine.card_locks import lock_cards
from worker.machine.gpu import Machine


@pytest.fixture(autouse=True)
def _locks_of_this_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def worker(backend: Backend, *cards: int, name: str = "machine-1") -> Supervisor:
    return supervise(replace(backend.context(), owner=name), Machine("h100", 1, cards))


def processes_of(backend: Backend, job_id: str) -> list[str]:
    texts = [event.message for event in backend.events(job_id)]
    return [text for text in texts if text.startswith("processes:")]


def test_a_job_runs_a_process_on_each_of_its_cards_and_pays_for_all(backend: Backend) -> None:
    job_id = backend.add_job()
    backend.set(job_id, num_gpus=2)
    with lock_cards([0], 1):
        assert worker(backend, 0, 1, 2).execute_next() is True
    job = backend.job(job_id)
    assert job.status == JobStatus.SUCCEEDED
    assert processes_of(backend, job_id) == ["processes: 2 on cards 1,2"]
    (attempt,) = backend.attempts(job_id)
    assert (attempt.device, attempt.num_devices) == ("h100", 2)
    assert job.device_seconds == pytest.approx(2 * job.execution_seconds, rel=0.05)
    assert job.progress is not None
    assert job.progress.cost is not None
    hours = Decimal(job.device_seconds) / 3600
    expected = float(job.progress.cost.usd_per_device_hour * hours)
    assert float(job.progress.cost.accrued) == pytest.approx(expected, rel=0.2, abs=1e-4)


def test_a_job_waits_for_its_cards_and_no_later_job_overtakes_it(backend: Backend) -> None:
    wide, narrow = backend.add_job(), backend.add_job()
    backend.set(wide, num_gpus=2)
    supervisor = worker(backend, 0, 1)
    with lock_cards([0], 1):
        assert supervisor.execute_next() is False
    assert backend.job(narrow).status == JobStatus.QUEUED
    assert supervisor.execute_next() is True
    assert backend.job(wide).status == JobStatus.SUCCEEDED
    assert supervisor.execute_next() is True
    assert processes_of(backend, narrow) == ["processes: 1 on cards 0"]


def test_a_machine_with_fewer_cards_takes_what_it_can(backend: Backend) -> None:
    wide, narrow = backend.add_job(), backend.add_job()
    backend.set(wide, num_gpus=3)
    supervisor = worker(backend, 0, 1)
    assert supervisor.execute_next() is True
    assert supervisor.execute_next() is False
    assert backend.job(wide).status == JobStatus.QUEUED
    assert backend.job(narrow).status == JobStatus.SUCCEEDED


def test_one_machine_reserves_its_cards_for_a_wide_job_and_others_continue(
    backend: Backend,
) -> None:
    wide, narrow, last = (backend.add_job() for _ in range(3))
    backend.set(wide, num_gpus=2)
    first, second = worker(backend, 0, 1, name="a-1"), worker(backend, 2, 3, name="b-1")
    with lock_cards([0], 1), lock_cards([2], 1):
        assert first.execute_next() is False
        assert second.execute_next() is True
        assert worker(backend, 0, 1, name="a-2").execute_next() is False
    statuses = [backend.job(id_).status for id_ in (wide, narrow, last)]
    assert statuses == [JobStatus.QUEUED, JobStatus.SUCCEEDED, JobStatus.QUEUED]
    # Whoever has enough takes it, whoever keeps cards for it.
    assert second.execute_next() is True
    assert processes_of(backend, wide) == ["processes: 2 on cards 2,3"]


def test_a_machine_that_is_gone_keeps_no_cards(backend: Backend) -> None:
    wide, narrow = backend.add_job(), backend.add_job()
    backend.set(wide, num_gpus=2)
    with lock_cards([0], 1), lock_cards([2], 1):
        assert worker(backend, 0, 1, name="a-1").execute_next() is False
        held_until = backend.job(wide).held_until
        assert held_until is not None
        backend.set(wide, held_until=held_until - timedelta(minutes=5))
        assert worker(backend, 2, 3, name="b-1").execute_next() is False
    assert (backend.job(wide).held_by, backend.job(narrow).status) == ("b", JobStatus.QUEUED)


def test_a_worker_that_is_drained_keeps_no_cards(backend: Backend) -> None:
    wide = backend.add_job()
    backend.set(wide, num_gpus=2)
    with backend.database.transaction() as session:
        workers.mark_seen(session, "a-1", "h100", 1, 2)
        session.execute(update(Worker).values(draining=Drain.FINISH))
    with lock_cards([0], 1):
        assert worker(backend, 0, 1, name="a-1").execute_next() is False
    assert backend.job(wide).held_by is None


def test_a_worker_whose_cards_are_all_taken_stays_and_is_busy(backend: Backend) -> None:
    backend.add_job()
    with backend.database.transaction() as session:
        workers.mark_seen(session, "a-1", "h100", 1)
        claims.claim(
            session, owner="a-1", device="h100", num_devices=1, lease_seconds=600, cards=(0,)
        )
    with lock_cards([0], 1):
        assert worker(backend, 0, name="a-2").execute_next() is False
    with backend.database.read() as session:
        live = workers.list_live(session, backend.settings)
        assert workers.list_idle(session, backend.settings) == {}
    assert [(each.worker.id, each.is_busy) for each in live] == [("a-2", True), ("a-1", True)]
    assert worker(backend, 1, name="a-3").execute_next() is False
    with backend.database.read() as session:
        assert list(workers.list_idle(session, backend.settings)) == ["a-3"], "its card is free"
