"""Evaluations, as a client asks for them; the worker that asks the models has tests of its own."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select, update

from app.evaluations.service import MAX_IN_PROGRESS
from app.models import Evaluation, Job, JobStatus
from app.models.evaluation import EvaluationResult
from app.projects import repository as projects
from falqon_core.contract.config import Recipe
from tests.support.api import Tenant, jsonl
from tests.support.databases import num_waiting_for
from tests.support.waiting import wait_for

GRADER = {"type": "string_check", "name": "same", "operation": "eq"}
RESULT = {
    "rows": 1,
    "rows_left_out": 0,
    "models": [
        {
            "model": "base",
            "role": "base",
            "step": None,
            "scores": [{"grader": "same", "mean": 1, "standard_error": None, "difference": None}],
        }
    ],
}


def a_job(tenant: Tenant, **request: Any) -> str:
    """One that has succeeded, with its model."""
    job_id = tenant.job(**request).id
    model_id = f"ft:{tenant.base_model}:acme::{job_id[-8:]}"
    tenant.add_model(model_id, project_id=tenant.project_id, base=tenant.base_model, job_id=job_id)
    values = {"status": JobStatus.SUCCEEDED, "fine_tuned_model_id": model_id}
    with tenant.api.database.transaction() as session:
        session.execute(update(Job).where(Job.id == job_id).values(**values))
    return str(job_id)


def url(job_id: str, rest: str = "") -> str:
    return f"/v1/fine_tuning/jobs/{job_id}/evaluations{rest}"


def ask(tenant: Tenant, job_id: str, **body: Any) -> Any:
    return tenant.http.post(url(job_id), json={"graders": [GRADER]} | body)


def test_an_evaluation_waits_for_a_worker_and_its_result_is_read_where_it_is(
    tenant: Tenant, stranger: Tenant
) -> None:
    held_out = tenant.upload()
    job_id = a_job(tenant, validation_file=held_out)
    created = ask(tenant, job_id, max_rows=5).json()
    assert created | {"id": "", "created_at": 0} == {
        "id": "",
        "object": "fine_tuning.job.evaluation",
        "status": "in_progress",
        "error": None,
        "created_at": 0,
        "fine_tuning_job_id": job_id,
        "file": held_out,
        "origin": "validation_file",
        "graders": [
            GRADER | {"input": "{{sample.output_text}}", "reference": "{{item.reference}}"}
        ],
        "models": [tenant.base_model, f"ft:{tenant.base_model}:acme::{job_id[-8:]}"],
        "max_rows": 5,
        "max_tokens": 256,
        "num_answers": 0,
        "num_questions": None,
        "cost": None,
        "result": None,
        "summary": None,
    }
    done = {
        "status": "completed",
        "num_rows": 5,
        "num_answers": 10,
        "result": EvaluationResult.model_validate(RESULT),
    }
    with tenant.api.database.transaction() as session:
        session.execute(update(Evaluation).where(Evaluation.id == created["id"]).values(**done))

    read = tenant.http.get(url(job_id, f"/{created['id']}")).json()
    assert (read["status"], read["num_questions"], read["result"]) == (
        "completed",
        10,
        RESULT | {"rivals": [], "best": [], "worst": []},
    )
    assert read["summary"] == "1.00 by same (1 row)."
    second = ask(tenant, job_id).json()
    page = tenant.http.get(url(job_id), params={"limit": 1}).json()
    assert (page["data"], page["has_more"]) == ([second], True)
    rest = tenant.http.get(url(job_id), params={"after": second["id"]}).json()
    assert (rest["data"], rest["has_more"]) == ([read], False)
    answer = stranger.http.get(url(job_id, f"/{created['id']}"))
    assert answer.json()["error"]["code"] == "fine_tune_not_found"
    answer = tenant.http.get(url(a_job(tenant), f"/{created['id']}"))
    assert answer.json()["error"]["code"] == "evaluation_not_found"
    tenant.http.delete(f"/v1/fine_tuning/jobs/{job_id}").raise_for_status()
    with tenant.api.database.read() as session:
        assert session.get(Evaluation, created["id"]) is None


def test_an_evaluation_asks_the_rows_that_its_request_chooses(
    tenant: Tenant, stranger: Tenant
) -> None:
    trained_on = tenant.upload()
    job_id = a_job(tenant, training_file=trained_on)
    refused = ask(tenant, job_id).json()["error"]
    assert (refused["code"], refused["param"]) == ("no_held_out_rows", "file")
    assert ask(tenant, job_id, file=trained_on).json()["error"]["code"] == "rows_were_trained_on"
    for not_theirs in ("file-no", stranger.upload()):
        assert ask(tenant, job_id, file=not_theirs).json()["error"]["code"] == "invalid_file"
    other = tenant.upload()
    assert ask(tenant, job_id, file=other).json()["origin"] == "file"
    with tenant.api.database.transaction() as session:
        recipe = Recipe(validation_fraction=0.2).resolved(12)
        session.execute(update(Job).where(Job.id == job_id).values(recipe=recipe))
    split = ask(tenant, job_id).json()
    assert (split["file"], split["origin"]) == (trained_on, "validation_fraction")


def test_checkpoints_are_asked_once_they_are_exported(tenant: Tenant) -> None:
    job_id = a_job(tenant, validation_file=tenant.upload())
    name = f"ft:{tenant.base_model}:acme::{job_id[-8:]}:ckpt-step-5"
    assert ask(tenant, job_id, checkpoints=[5]).json()["error"]["code"] == "checkpoint_not_found"
    assert tenant.add_checkpoint(job_id, 5) == name
    refused = ask(tenant, job_id, checkpoints=[5]).json()["error"]
    assert refused["code"] == "checkpoint_not_exported"
    assert f"/v1/models/{name}/exports" in refused["message"]
    tenant.add_model(name, project_id=tenant.project_id, base=tenant.base_model, job_id=job_id)
    models = ask(tenant, job_id, checkpoints=[5, 5]).json()["models"]
    assert models == [tenant.base_model, name, name.removesuffix(":ckpt-step-5")]


def test_a_job_that_continues_by_an_alias_is_compared_with_the_model_that_the_alias_stood_for(
    tenant: Tenant,
) -> None:
    first = a_job(tenant)
    checkpoint = tenant.add_checkpoint(first, 5)
    tenant.add_model(checkpoint, project_id=tenant.project_id, base=tenant.base_model, job_id=first)
    alias = {"name": "support", "models": [{"model": checkpoint}]}
    tenant.http.post("/v1/aliases", json=alias).raise_for_status()
    second = a_job(tenant, model="support", validation_file=tenant.upload())
    assert tenant.client.fine_tuning.jobs.retrieve(second).model == checkpoint
    alias["models"] = [{"model": tenant.base_model}]
    tenant.http.post("/v1/aliases", json=alias).raise_for_status()
    models = ask(tenant, second).raise_for_status().json()["models"]
    assert models == [checkpoint, f"ft:{tenant.base_model}:acme::{second[-8:]}"]


def test_a_job_without_a_model_is_not_evaluated(tenant: Tenant) -> None:
    unfinished = tenant.job(validation_file=tenant.upload()).id
    assert ask(tenant, unfinished).json()["error"]["code"] == "no_model_to_evaluate"
    job_id = a_job(tenant, validation_file=tenant.upload())
    tenant.client.models.delete(f"ft:{tenant.base_model}:acme::{job_id[-8:]}")
    assert ask(tenant, job_id).json()["error"]["code"] == "model_not_found"


def test_a_project_has_a_limit_of_open_evaluations(tenant: Tenant) -> None:
    job_id = a_job(tenant, validation_file=tenant.upload(jsonl(answer="five")))
    for _ in range(MAX_IN_PROGRESS):
        ask(tenant, job_id).raise_for_status()
    assert ask(tenant, job_id).json()["error"]["code"] == "too_many_evaluations"


@pytest.mark.both_databases
def test_the_limit_holds_for_requests_at_once(tenant: Tenant) -> None:
    held_out = tenant.upload(jsonl(answer="six"))
    job_ids = [a_job(tenant, validation_file=held_out) for _ in range(12)]
    with ThreadPoolExecutor(len(job_ids)) as pool:
        answers = list(pool.map(lambda job_id: ask(tenant, job_id), job_ids))
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(200) == MAX_IN_PROGRESS, statuses
    assert statuses.count(429) == len(job_ids) - MAX_IN_PROGRESS, statuses


@pytest.mark.parametrize("api", ["postgres"], indirect=True)
def test_an_evaluation_and_the_end_of_an_attempt_wait_for_each_other_once(tenant: Tenant) -> None:
    """The job's row is locked before the project's by both."""
    job_id = a_job(tenant, validation_file=tenant.upload(jsonl(answer="seven")))
    with ThreadPoolExecutor(1) as pool:
        with tenant.api.database.transaction() as session:
            session.execute(select(Job.id).where(Job.id == job_id).with_for_update())
            asking = pool.submit(ask, tenant, job_id)
            wait_for(lambda: num_waiting_for(session) == 1, what="it waits for the job")
            projects.lock(session, tenant.project_id)
        assert asking.result().status_code == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"graders": []}, "graders"),
        ({"graders": [GRADER] * 9}, "graders"),
        ({"graders": [GRADER | {"type": "python"}]}, "graders.0.type"),
        ({"max_rows": 1001}, "max_rows"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"checkpoints": [1, 2, 3, 4, 5, 6]}, "checkpoints"),
        ({"model": "gpt-4o"}, "model"),
    ],
)
def test_a_bad_evaluation_request_is_refused_by_its_parameter(
    tenant: Tenant, body: dict[str, Any], param: str
) -> None:
    answer = ask(tenant, a_job(tenant), **body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
