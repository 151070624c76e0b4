"""A job stops at its cap with a checkpoint, and goes on when the cap is raised."""

from datetime import timedelta
from decimal import Decimal

import pytest

from app.errors import IllegalState
from app.jobs import service as jobs
from app.jobs.falqon_options import Budget
from app.models import DEFAULT_PROJECT_ID, Desired, JobStatus
from app.models.base import JsonObject
from app.prices import service as prices
from app.prices.service import Wanted
from tests.support.house import House
from tests.support.toy_trainer import Toy
from tests.worker.attempt.test_supervisor import executing
from worker.attempt.supervisor import Supervisor

LONG = Toy(steps=2000, step_seconds=0.02)
SHORT = Toy(steps=60, step_seconds=0.02)
DEAR = "3600000.00"  # of one of two cores: whatever is left of a budget is gone with the next tick


def patient(house: House, **settings: object) -> Supervisor:
    """The trainer has time for its checkpoint, however busy the machine is."""
    return house.supervisor(**{"lease": timedelta(seconds=60), "stop_grace": timedelta(seconds=30)} | settings)


def set_price(house: House, usd_per_device_hour: str) -> None:
    with house.database.transaction() as session:
        prices.replace(session, [Wanted("cpu", Decimal(usd_per_device_hour), "test")])


def resume(house: House, job_id: str, change: JsonObject | None = None) -> None:
    with house.database.transaction() as session:
        jobs.resume(session, DEFAULT_PROJECT_ID, job_id, house.settings, None if change is None else Budget.model_validate(change))


def paused_by_cost(house: House, toy: Toy) -> str:
    """A job that has done some steps when its money runs out."""
    job_id = house.add_job(toy)
    house.set(job_id, budget={"max_cost_usd": "1.00"})
    with executing(patient(house)):
        house.wait_for_step(job_id, 5)
        set_price(house, DEAR)
    return job_id


def test_at_the_cap_it_writes_a_checkpoint_and_pauses(house: House) -> None:
    job_id = paused_by_cost(house, LONG)
    job = house.job(job_id)
    assert (job.status, job.paused_reason, job.infra_failures) == (JobStatus.PAUSED, "budget: max_cost_usd 1.00 is used up", 0)
    assert job.progress["step"] >= 5
    assert house.checkpoints(job_id)[-1].step == job.progress["step"], "no step is lost"
    last = house.events(job_id)[-1]
    assert (last.level, last.data) == ("warn", {"code": "budget_exhausted", "param": "falqon.budget.max_cost_usd"})
    assert job.progress["cost"]["usd_per_device_hour"] == DEAR, "a new price counts while the job runs"
    assert Decimal(job.progress["cost"]["accrued"]) >= 1
    assert job.device_seconds == pytest.approx(2 * job.execution_seconds, rel=0.01)
    assert house.attempts(job_id)[0].outcome == "paused"
    assert patient(house).execute_next() is False


def test_a_raised_cap_lets_it_continue_to_the_same_bytes(embedded_house: House) -> None:
    house = embedded_house
    toy = Toy(steps=400, step_seconds=0.02, checkpoint_every=100)
    job_id = paused_by_cost(house, toy)
    paused = house.job(job_id)
    set_price(house, "36.00")
    for change in (None, {}, {"max_cost_usd": "1.00"}, {"max_seconds": 600}):
        with pytest.raises(IllegalState, match=r"max_cost_usd 1.00 is used up") as caught:
            resume(house, job_id, change)
        assert (caught.value.code, caught.value.param) == ("budget_exhausted", "falqon.budget.max_cost_usd")
        assert house.job(job_id).status == JobStatus.PAUSED
    resume(house, job_id, {"max_cost_usd": "99000000.00", "max_seconds": 600})
    job = house.job(job_id)
    assert (job.status, job.budget, job.paused_reason) == (JobStatus.QUEUED, {"max_cost_usd": "99000000.00", "max_seconds": 600}, None)
    assert patient(house).execute_next()
    job = house.job(job_id)
    assert job.status == JobStatus.SUCCEEDED
    assert house.attempts(job_id)[1].start_step == paused.progress["step"]
    assert job.execution_seconds > paused.execution_seconds
    assert Decimal(job.progress["cost"]["accrued"]) > Decimal(paused.progress["cost"]["accrued"])
    whole = house.add_job(toy.model_copy(update={"step_seconds": 0}))
    assert patient(house).execute_next()
    assert house.weights(job_id) == house.weights(whole)


def test_seconds_are_a_cap_too(embedded_house: House) -> None:
    house = embedded_house
    job_id = house.add_job(LONG)
    house.set(job_id, budget={"max_seconds": 1})
    assert patient(house).execute_next()
    job = house.job(job_id)
    assert (job.status, job.paused_reason) == (JobStatus.PAUSED, "budget: max_seconds 1 is used up")
    assert job.execution_seconds >= 1.0
    assert house.events(job_id)[-1].data == {"code": "budget_exhausted", "param": "falqon.budget.max_seconds"}


def test_null_takes_a_cap_away(embedded_house: House) -> None:
    job_id = embedded_house.add_job(SHORT)
    embedded_house.set(job_id, budget={"max_seconds": 1})
    assert patient(embedded_house).execute_next()
    resume(embedded_house, job_id, {"max_seconds": None})
    assert patient(embedded_house).execute_next()
    assert embedded_house.job(job_id).status == JobStatus.SUCCEEDED


def test_all_attempts_count(embedded_house: House) -> None:
    """A job that comes back from the queue with nothing left is not even staged."""
    house = embedded_house
    job_id = house.add_job(LONG)
    house.set(job_id, budget={"max_seconds": 50}, execution_seconds=50.0)
    assert patient(house).execute_next()
    job = house.job(job_id)
    assert (job.status, job.progress.get("step")) == (JobStatus.PAUSED, None)
    assert patient(house).execute_next() is False


def test_a_wish_to_cancel_is_stronger(embedded_house: House) -> None:
    house = embedded_house
    job_id = house.add_job(LONG)
    house.set(job_id, budget={"max_cost_usd": "1.00"})
    with executing(patient(house, heartbeat=timedelta(seconds=30))):  # the wish is not heard in time
        house.wait_for_step(job_id, 1)
        house.set(job_id, desired=Desired.CANCEL)
        set_price(house, DEAR)
    assert (house.job(job_id).status, house.job(job_id).paused_reason) == (JobStatus.CANCELLED, None)


def test_a_lost_attempt_is_paid_for(embedded_house: House) -> None:
    house = embedded_house
    set_price(house, "3600.00")
    job_id = house.add_job(Toy(steps=60, step_seconds=0.02, crash_at=40))
    assert patient(house).execute_next()
    job = house.job(job_id)
    assert (job.status, house.attempts(job_id)[0].outcome) == (JobStatus.QUEUED, "lost")
    assert job.execution_seconds > 0.7
    assert Decimal(job.progress["cost"]["accrued"]) == pytest.approx(Decimal(2 * job.execution_seconds), rel=Decimal("0.02"))
