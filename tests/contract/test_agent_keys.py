"""Keys of agents: what they may do, and the dollars of a day, which no way of asking exceeds."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from app.base.database import now
from app.jobs import agent_budget, claims
from app.jobs.events import NewEvent
from app.models import Evaluation, Event, Job, JobStatus, Scope, UsageDay
from app.models.evaluation import EvaluationResult
from app.usage import repository as usage
from falqon_core.estimate.prices import default_price
from tests.contract.access_objects import GRADER, a_job_to_evaluate
from tests.contract.test_evaluations import RESULT
from tests.support.api import Api, Tenant, jsonl
from tests.support.audit import rows_of
from tests.support.usage import report
from worker.evaluation import outcome
from worker.evaluation.charge import Charge

pytestmark = pytest.mark.both_databases

BUDGET = "5"
PARAM = "falqon.budget.max_cost_usd"


@pytest.fixture
def admin(api: Api) -> Iterator[Tenant]:
    tenant = Tenant(api, Scope.ADMIN)
    yield tenant
    tenant.http.close()


@pytest.fixture
def agent(admin: Tenant) -> Iterator[httpx.Client]:
    body = {"name": "agent", "scope": "agent", "daily_budget_usd": BUDGET}
    secret = admin.http.post("/v1/api_keys", json=body).json()["secret"]
    headers = {"authorization": f"Bearer {secret}"}
    with httpx.Client(base_url=admin.api.url, headers=headers, verify=False, timeout=60) as http:
        yield http


def create(agent: httpx.Client, tenant: Tenant, most: str | None, **options: Any) -> httpx.Response:
    budget = {} if most is None else {"budget": {"max_cost_usd": most}}
    request = {"model": tenant.base_model, "training_file": tenant.upload()}
    return agent.post("/v1/fine_tuning/jobs", json=request | {"falqon": budget | options})


def error_of(response: httpx.Response) -> tuple[int, str, str]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


EXHAUSTED = (429, "insufficient_quota", "daily_budget_usd")


def spend(tenant: Tenant, job_id: str, *accrued: str, ends: bool = True) -> None:
    """Report costs of a job, each a day after the one before, the last today."""
    claim = tenant.claim(job_id)
    with tenant.api.database.transaction() as session:
        today = now(session).date()
        for age, amount in zip(reversed(range(len(accrued))), accrued, strict=True):
            report(session, claim, today - timedelta(days=age), amount, 1.0, 1)
        if ends:
            assert claims.finish(session, claim, JobStatus.FAILED, NewEvent("done"))


def key_id_of(agent: httpx.Client) -> str:
    public = agent.headers["authorization"].removeprefix("Bearer ft_live_").partition("_")[0]
    return f"key_{public}"


def complete(tenant: Tenant, evaluation_id: str, cost: str) -> None:
    """End an evaluation as its worker does."""
    charge = Charge(3600.0, Decimal(cost), 1, default_price("cpu"))
    result = EvaluationResult.model_validate(RESULT)
    with tenant.api.database.transaction() as session:
        evaluation = session.get_one(Evaluation, evaluation_id)
        assert outcome.complete(session, evaluation, result, charge)


def fail(tenant: Tenant, evaluation_id: str, cost: str) -> None:
    charge = Charge(3600.0, Decimal(cost), 1, default_price("cpu"))
    with tenant.api.database.transaction() as session:
        evaluation = session.get_one(Evaluation, evaluation_id)
        assert outcome.fail(session, evaluation, charge, "no", "No.")


def test_a_daily_budget_is_for_agents_and_required_of_them(admin: Tenant) -> None:
    refused: list[dict[str, Any]] = [
        {"scope": "agent"},
        {"scope": "agent", "daily_budget_usd": None},
        {"scope": "agent", "daily_budget_usd": 5},
        {"scope": "agent", "daily_budget_usd": "0"},
        {"scope": "agent", "daily_budget_usd": "999999999"},
        {"scope": "write", "daily_budget_usd": "5"},
    ]
    for body in refused:
        answer = admin.http.post("/v1/api_keys", json={"name": "k"} | body)
        assert error_of(answer) == (400, "invalid_value", "daily_budget_usd"), body


def test_ended_jobs_count_with_their_cost_and_others_with_their_cap(
    admin: Tenant, agent: httpx.Client
) -> None:
    first = create(agent, admin, "3").json()
    before = admin.num_rows(Job, Event)
    refused = create(agent, admin, "2.0001")
    assert error_of(refused) == EXHAUSTED
    assert refused.headers["x-should-retry"] == "false"
    assert "may cost $2.0001, and $2.00 is left of the $5.00" in refused.text
    assert admin.num_rows(Job, Event) == before
    spend(admin, first["id"], "1.0000")
    assert create(agent, admin, "4").status_code == 200
    # The cost stays when the job is deleted.
    assert admin.http.delete(f"/v1/fine_tuning/jobs/{first['id']}").status_code == 200
    assert error_of(create(agent, admin, "0.0001")) == EXHAUSTED


def test_a_job_over_midnight_counts_today_with_what_it_has_cost_and_may_cost_today(
    admin: Tenant, agent: httpx.Client
) -> None:
    job = create(agent, admin, "4").json()
    spend(admin, job["id"], "2.5000", "3.0000", ends=False)
    # Today 0.50 is spent, and 1 may follow.
    assert error_of(create(agent, admin, "3.5001")) == EXHAUSTED
    assert create(agent, admin, "3.5").status_code == 200


def test_of_many_jobs_at_once_only_as_many_pass_as_the_budget_holds(
    admin: Tenant, agent: httpx.Client
) -> None:
    requests = [
        {
            "model": admin.base_model,
            "training_file": admin.upload(),
            "falqon": {"budget": {"max_cost_usd": "2"}},
        }
        for _ in range(6)
    ]
    with ThreadPoolExecutor(6) as pool:
        answers = list(
            pool.map(lambda body: agent.post("/v1/fine_tuning/jobs", json=body), requests)
        )
    assert sorted(answer.status_code for answer in answers) == [200] * 2 + [429] * 4


def test_a_job_of_an_agent_needs_a_cap_and_the_keys_of_others_do_not(
    admin: Tenant, agent: httpx.Client
) -> None:
    assert error_of(create(agent, admin, None)) == (400, "missing_required_parameter", PARAM)
    assert create(admin.http, admin, None).status_code == 200
    assert create(admin.http, admin, "100").status_code == 200
    # Other keys' jobs are not the agent's.
    assert create(agent, admin, BUDGET).status_code == 200


def test_an_evaluation_costs_at_most_what_is_left_of_the_day(
    admin: Tenant, agent: httpx.Client
) -> None:
    path = f"/v1/fine_tuning/jobs/{a_job_to_evaluate(admin)['job_id']}/evaluations"
    assert create(agent, admin, "3").status_code == 200
    evaluation = agent.post(path, json={"graders": [GRADER]}).json()
    with admin.api.database.read() as session:
        stored = session.get_one(Evaluation, evaluation["id"])
        assert stored.plan.max_cost_usd == 2
    assert error_of(create(agent, admin, "2")) == EXHAUSTED
    fail(admin, evaluation["id"], "0.5")
    assert error_of(create(agent, admin, "1.5001")) == EXHAUSTED
    assert create(agent, admin, "1.5").status_code == 200
    refused = agent.post(path, json={"graders": [GRADER]})
    assert error_of(refused) == EXHAUSTED
    assert "$0.00 is left of the $5.00" in refused.text
    assert admin.http.post(path, json={"graders": [GRADER]}).status_code == 200


def test_an_evaluation_lowers_the_day_of_the_key_that_asked_for_it(
    admin: Tenant, agent: httpx.Client
) -> None:
    mine, others = (a_job_to_evaluate(admin)["job_id"] for _ in range(2))
    with admin.api.database.transaction() as session:
        session.get_one(Job, mine).key_id = key_id_of(agent)
    for http, job_id, cost in ((agent, others, "4"), (admin.http, mine, "3")):
        path = f"/v1/fine_tuning/jobs/{job_id}/evaluations"
        evaluation = http.post(path, json={"graders": [GRADER]}).raise_for_status().json()
        complete(admin, evaluation["id"], cost)
        job = admin.http.get(f"/v1/fine_tuning/jobs/{job_id}").json()
        assert Decimal(job["cost"]["accrued"]) == 0
    assert error_of(create(agent, admin, "1.0001")) == EXHAUSTED
    assert create(agent, admin, "1").status_code == 200

    with admin.api.database.transaction() as session:
        # A later report of the job books nothing of another key's evaluation.
        usage.book(session, others, now(session).date())
        days = select(UsageDay).where(UsageDay.project_id == admin.project_id)
        booked = [(day.key_id, day.cost) for day in session.scalars(days) if day.cost]
        admin_key_id = session.get_one(Job, others).key_id
    assert sorted(booked, key=str) == sorted([(key_id_of(agent), 4), (admin_key_id, 3)], key=str)
    # The cost stays when the job is deleted.
    assert admin.http.delete(f"/v1/fine_tuning/jobs/{others}").status_code == 200
    assert error_of(create(agent, admin, "0.0001")) == EXHAUSTED


def test_an_evaluation_in_progress_ends_no_batch_of_its_key_and_its_cost_does(
    admin: Tenant, agent: httpx.Client
) -> None:
    def is_spent() -> bool:
        with admin.api.database.read() as session:
            return agent_budget.is_spent(session, admin.project_id, key_id_of(agent))

    path = f"/v1/fine_tuning/jobs/{a_job_to_evaluate(admin)['job_id']}/evaluations"
    evaluation = agent.post(path, json={"graders": [GRADER]}).json()
    assert error_of(create(agent, admin, "0.0001")) == EXHAUSTED
    assert not is_spent()
    complete(admin, evaluation["id"], BUDGET)
    assert is_spent()


def test_of_many_evaluations_at_once_one_has_what_is_left_of_the_day(
    admin: Tenant, agent: httpx.Client
) -> None:
    path = f"/v1/fine_tuning/jobs/{a_job_to_evaluate(admin)['job_id']}/evaluations"
    with ThreadPoolExecutor(3) as pool:
        answers = list(
            pool.map(lambda body: agent.post(path, json=body), [{"graders": [GRADER]}] * 3)
        )
    assert sorted(answer.status_code for answer in answers) == [200, 429, 429]
    assert [error_of(each) for each in answers if each.is_error] == [EXHAUSTED] * 2


def test_estimates_and_dry_runs_are_free(admin: Tenant, agent: httpx.Client) -> None:
    assert create(agent, admin, BUDGET).status_code == 200
    body = {"model": admin.base_model, "training_file": admin.upload()}
    before = admin.num_rows(Job, Event)
    for path in ("/v1/fine_tuning/estimates", "/v1/fine_tuning/jobs?dry_run=true"):
        assert agent.post(path, json=body).status_code == 200
    assert admin.num_rows(Job, Event) == before


def test_an_agent_changes_no_name_by_way_of_a_job(admin: Tenant, agent: httpx.Client) -> None:
    name = {"name": "support", "model": admin.base_model}
    admin.http.post("/v1/aliases", json=name).raise_for_status()
    refused = create(agent, admin, "1", switch={"alias": "support"})
    assert error_of(refused) == (403, "insufficient_permissions", "falqon.switch")


def test_every_act_of_an_agent_is_in_the_audit_log_as_that_key(
    admin: Tenant, agent: httpx.Client
) -> None:
    job_id = a_job_to_evaluate(admin)["job_id"]
    upload = {"filename": "a.jsonl", "purpose": "fine-tune", "bytes": len(jsonl())}
    upload_created = agent.post("/v1/uploads", json=upload | {"mime_type": "application/jsonl"})
    path = f"/v1/uploads/{upload_created.json()['id']}"
    part = agent.post(f"{path}/parts", files={"data": ("part", jsonl())}).json()
    acts = {
        "upload.created": upload_created,
        "upload.completed": agent.post(f"{path}/complete", json={"part_ids": [part["id"]]}),
        "file.created": agent.post(
            "/v1/files", files={"file": ("a.jsonl", jsonl())}, data={"purpose": "fine-tune"}
        ),
        "job.created": create(agent, admin, "1"),
        "evaluation.created": agent.post(
            f"/v1/fine_tuning/jobs/{job_id}/evaluations", json={"graders": [GRADER]}
        ),
    }
    for event_type, answer in acts.items():
        assert answer.status_code == 200, answer.text
        (row,) = rows_of(admin.api.database, answer.headers["x-request-id"])
        assert row.event_type == event_type
        assert row.key_id.removeprefix("key_") in agent.headers["authorization"]
