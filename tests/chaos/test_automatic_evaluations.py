"""The evaluation that follows a success is there exactly once, wherever the worker dies."""

from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import select

from app.aliases import repository as aliases
from app.base.database import now_plus
from app.evaluations.automatic import GRADERS
from app.jobs import claims
from app.models import (
    DEFAULT_PROJECT_ID,
    AliasSwitch,
    Evaluation,
    JobStatus,
    Project,
    SwitchStatus,
)
from app.models.alias import AliasTarget, AliasTargets
from app.models.falqon_options import Budget, FalqonOptions
from app.models.job_request import JobRequest
from app.models.switch_options import SwitchOptions
from falqon_core.contract.config import Recipe
from falqon_core.estimate.evaluation import EvaluationEstimate
from tests.support.backend import BASE_MODEL, Backend
from tests.support.fake_trainer import FakeTrainer
from tests.support.job_columns import estimated
from tests.support.waiting import wait_for


def a_job(backend: Backend, **columns: object) -> str:
    """One that held rows out, and whose estimate has an evaluation of three cents."""
    job_id = backend.add_job(FakeTrainer(steps=3, step_seconds=0))
    evaluation = EvaluationEstimate(num_rows=10, seconds=9, cost=Decimal("0.03"))
    estimate = estimated(1, 1, 1).model_copy(update={"evaluation": evaluation})
    recipe = Recipe(validation_fraction=0.1).resolved(100)
    backend.set(job_id, **{"estimate": estimate, "recipe": recipe} | columns)
    return job_id


def with_switch(backend: Backend, job_id: str) -> JobRequest:
    """Return the request of a job, with a name of the base to switch."""
    targets = AliasTargets(models=[AliasTarget(model=BASE_MODEL)])
    with backend.database.transaction() as session:
        aliases.add_version(session, DEFAULT_PROJECT_ID, "support", targets, None)
    options = FalqonOptions(switch=SwitchOptions(alias="support"))
    return backend.job(job_id).requested.model_copy(update={"falqon": options})


def evaluations(backend: Backend, job_id: str) -> list[Evaluation]:
    with backend.database.read() as session:
        return list(session.scalars(select(Evaluation).where(Evaluation.job_id == job_id)))


@pytest.mark.parametrize("point", ["before_finish", "after_finish"])
def test_a_kill_around_the_success_leaves_one_evaluation_and_one_switch(
    backend: Backend, tmp_path: Path, point: str
) -> None:
    job_id = a_job(backend)
    backend.set(job_id, requested=with_switch(backend, job_id))
    worker = backend.start_worker(FAULT_POINTS=f"{point}=exit", FAULT_MARKS=str(tmp_path))
    wait_for(lambda: worker.poll() is not None, what="the worker dies at its point")
    is_published = point == "after_finish"
    assert (backend.job(job_id).status == JobStatus.SUCCEEDED) is is_published
    assert len(evaluations(backend, job_id)) == is_published
    if not is_published:
        backend.set(job_id, lease_expires_at=now_plus(-1))
        with backend.database.transaction() as session:
            assert claims.rescue(session, max_infra_failures=9) == [job_id]
    assert backend.supervisor().execute_next() is not is_published
    (evaluation,) = evaluations(backend, job_id)
    assert backend.job(job_id).status == JobStatus.SUCCEEDED
    assert (evaluation.origin, evaluation.plan.graders) == ("validation_fraction", GRADERS)
    assert [model.role for model in evaluation.plan.models] == ["base", "result"]
    with backend.database.read() as session:
        (switch,) = session.scalars(select(AliasSwitch)).all()
    assert (switch.evaluation_id, switch.status) == (evaluation.id, SwitchStatus.EVALUATING)
    assert evaluation.plan.rivals == [BASE_MODEL]


@pytest.mark.parametrize(("cap", "is_enough"), [("0.02", False), ("5.00", True)])
def test_a_budget_that_does_not_cover_it_is_an_event(
    backend: Backend, cap: str, is_enough: bool
) -> None:
    job_id = a_job(backend, budget=Budget(max_cost_usd=Decimal(cap)))
    assert backend.supervisor().execute_next()
    assert backend.job(job_id).status == JobStatus.SUCCEEDED
    events = [event for event in backend.events(job_id) if "evaluation_skipped" in str(event.data)]
    assert len(events) == (not is_enough)
    assert len(evaluations(backend, job_id)) == is_enough
    if is_enough:
        (evaluation,) = evaluations(backend, job_id)
        assert evaluation.plan.max_cost_usd is not None
        assert Decimal(4) < evaluation.plan.max_cost_usd <= Decimal(5)
    else:
        assert "of the budget is left" in events[0].message


def test_what_cannot_be_evaluated_is_an_event_and_no_failure(backend: Backend) -> None:
    job_id = a_job(backend, recipe=Recipe().resolved(1))
    assert backend.supervisor().execute_next()
    assert backend.job(job_id).status == JobStatus.SUCCEEDED
    assert evaluations(backend, job_id) == []
    assert any("held nothing out" in event.message for event in backend.events(job_id))


def test_a_project_switches_it_off(backend: Backend) -> None:
    job_id = a_job(backend)
    with backend.database.transaction() as session:
        session.get_one(Project, backend.job(job_id).project_id).evaluate = False
    assert backend.supervisor().execute_next()
    assert evaluations(backend, job_id) == []
    assert not any("not compared" in event.message for event in backend.events(job_id))
