"""A job stops at its cap with a checkpoint, and goes on when the cap is raised."""

from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import select

from app.base.errors import IllegalState
from app.jobs import transitions
from app.models import DEFAULT_PROJECT_ID, Desired, JobStatus, UsageDay
from app.models.base import JsonObject
from app.models.falqon_options import Budget
from app.prices import service as prices
from app.prices.schemas import Override
from tests.support.backend import Backend
from tests.support.fake_trainer import FakeTrainer, weights_of
from tests.worker.attempt.test_supervisor import executing

LONG = FakeTrainer(steps=2000, step_seconds=0.02)
SHORT = FakeTrainer(steps=60, step_seconds=0.02)
DEAR = "3600000.00"  # of one of two cores: whatever is left of a budget is gone with the next tick


def set_price(backend: Backend, usd_per_device_hour: str) -> None:
    with backend.database.transaction() as session:
        price = Override(
            device="cpu", usd_per_device_hour=Decimal(usd_per_device_hour), source="test"
        )
        prices.replace(session, [price])


def resume(backend: Backend, job_id: str, change: JsonObject | None = None) -> None:
    with backend.database.transaction() as session:
        transitions.resume(
            session,
            DEFAULT_PROJECT_ID,
            job_id,
            backend.settings,
            None if change is None else Budget.model_validate(change),
        )


def paused_by_cost(backend: Backend, fake: FakeTrainer) -> str:
    """A job that has done some steps when its money runs out."""
    job_id = backend.add_job(fake)
    backend.set(job_id, budget=Budget(max_cost_usd=Decimal("1.00")))
    with executing(backend.supervisor()):
        backend.wait_for_step(job_id, 5)
        set_price(backend, DEAR)
    return job_id


def test_a_job_at_its_cap_writes_a_checkpoint_and_pauses(backend: Backend) -> None:
    job_id = paused_by_cost(backend, LONG)
    job = backend.job(job_id)
    assert (job.status, job.paused_reason, job.infra_failures) == (
        JobStatus.PAUSED,
        "budget: max_cost_usd 1.00 is used up",
        0,
    )
    assert job.progress.step >= 5
    assert backend.checkpoints(job_id)[-1].step == job.progress.step, "no step is lost"
    last = backend.events(job_id)[-1]
    assert (last.level, last.data) == (
        "warn",
        {"code": "budget_exhausted", "param": "falqon.budget.max_cost_usd"},
    )
    assert job.progress.cost.usd_per_device_hour == Decimal(DEAR), (
        "a new price counts while the job runs"
    )
    assert job.progress.cost.accrued >= 1
    assert job.device_seconds == pytest.approx(2 * job.execution_seconds, rel=0.01)
    assert backend.attempts(job_id)[0].outcome == "paused"
    assert backend.supervisor().execute_next() is False


def test_a_job_with_a_raised_cap_continues_to_the_same_bytes(
    embedded_backend: Backend, tmp_path: Path
) -> None:
    backend = embedded_backend
    run_fast = tmp_path / "run_fast"
    fake = FakeTrainer(steps=400, step_seconds=0.02, run_fast=run_fast, checkpoint_every=100)
    job_id = paused_by_cost(backend, fake)
    run_fast.touch()
    paused = backend.job(job_id)
    set_price(backend, "36.00")
    for change in (None, {}, {"max_cost_usd": "1.00"}, {"max_seconds": 600}):
        with pytest.raises(IllegalState, match=r"max_cost_usd 1.00 is used up") as caught:
            resume(backend, job_id, change)
        assert (caught.value.code, caught.value.param) == (
            "budget_exhausted",
            "falqon.budget.max_cost_usd",
        )
        assert backend.job(job_id).status == JobStatus.PAUSED
    resume(backend, job_id, {"max_cost_usd": "99000000.00", "max_seconds": 600})
    job = backend.job(job_id)
    assert (job.status, job.budget, job.paused_reason) == (
        JobStatus.QUEUED,
        Budget(max_cost_usd=Decimal("99000000.00"), max_seconds=600),
        None,
    )
    assert backend.supervisor().execute_next()
    job = backend.job(job_id)
    assert job.status == JobStatus.SUCCEEDED
    assert backend.attempts(job_id)[1].start_step == paused.progress.step
    assert job.execution_seconds > paused.execution_seconds
    assert job.progress.cost.accrued > paused.progress.cost.accrued
    with backend.database.read() as session:
        days = session.scalars(select(UsageDay).where(UsageDay.job_id == job_id)).all()
    assert sum(day.cost for day in days) == job.progress.cost.accrued
    tokens = sum(attempt.tokens or 0 for attempt in backend.attempts(job_id))
    assert sum(day.tokens for day in days) == tokens > 0
    assert backend.weights(job_id) == weights_of(fake.steps)


def test_a_job_pauses_at_its_cap_of_seconds(embedded_backend: Backend) -> None:
    backend = embedded_backend
    job_id = backend.add_job(LONG)
    backend.set(job_id, budget=Budget(max_seconds=1))
    assert backend.supervisor().execute_next()
    job = backend.job(job_id)
    assert (job.status, job.paused_reason) == (JobStatus.PAUSED, "budget: max_seconds 1 is used up")
    assert job.execution_seconds >= 1.0
    assert backend.events(job_id)[-1].data == {
        "code": "budget_exhausted",
        "param": "falqon.budget.max_seconds",
    }


def test_null_takes_a_cap_away(embedded_backend: Backend) -> None:
    job_id = embedded_backend.add_job(SHORT)
    embedded_backend.set(job_id, budget=Budget(max_seconds=1))
    assert embedded_backend.supervisor().execute_next()
    resume(embedded_backend, job_id, {"max_seconds": None})
    assert embedded_backend.supervisor().execute_next()
    assert embedded_backend.job(job_id).status == JobStatus.SUCCEEDED


def test_all_attempts_count(embedded_backend: Backend) -> None:
    """A job that comes back from the queue with nothing left is not even staged."""
    backend = embedded_backend
    job_id = backend.add_job(LONG)
    backend.set(job_id, budget=Budget(max_seconds=50), execution_seconds=50.0)
    assert backend.supervisor().execute_next()
    job = backend.job(job_id)
    assert (job.status, job.progress.step) == (JobStatus.PAUSED, 0)
    assert backend.supervisor().execute_next() is False


def test_a_stop_request_to_cancel_is_stronger(embedded_backend: Backend) -> None:
    backend = embedded_backend
    job_id = backend.add_job(LONG)
    backend.set(job_id, budget=Budget(max_cost_usd=Decimal("1.00")))
    # the request is not heard in time
    with executing(backend.supervisor(heartbeat=timedelta(seconds=30))):
        backend.wait_for_step(job_id, 1)
        backend.set(job_id, desired=Desired.CANCEL)
        set_price(backend, DEAR)
    assert (backend.job(job_id).status, backend.job(job_id).paused_reason) == (
        JobStatus.CANCELLED,
        None,
    )


def test_a_lost_attempt_is_paid_for(embedded_backend: Backend) -> None:
    backend = embedded_backend
    set_price(backend, "3600.00")
    job_id = backend.add_job(FakeTrainer(steps=60, step_seconds=0.02, crash_at=40))
    assert backend.supervisor().execute_next()
    job = backend.job(job_id)
    assert (job.status, backend.attempts(job_id)[0].outcome) == (JobStatus.QUEUED, "lost")
    assert job.execution_seconds > 0.7
    assert job.progress.cost.accrued == pytest.approx(
        Decimal(2 * job.execution_seconds), rel=Decimal("0.02")
    )
