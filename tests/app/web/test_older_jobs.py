"""Jobs whose request was accepted under rules that have become stricter since."""

import json

import httpx
from sqlalchemy import text

from tests.support.api import Tenant

REQUEST = {
    "priority": 99,
    "suffix": "not now!",
    "integrations": [{"type": "gone", "gone": {"project": ""}}] * 2,
    "method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "gamma": 1}}},
    "falqon": {"rank": 4096, "alpha": 2.0, "num_update_rows": 3, "removed": True},
}
RECIPE = {"objective": "dpo", "rank": 4096, "update_rule": "older", "weight_decay": 2.0}


def store(tenant: Tenant, job_id: str, **columns: object) -> None:
    with tenant.api.database.transaction() as session:
        for name, value in columns.items():
            statement = text(f"UPDATE jobs SET {name} = :value WHERE id = :id")
            session.execute(statement, {"value": json.dumps(value), "id": job_id})


def test_a_job_of_older_rules_is_shown_unchanged_beside_the_rest(
    tenant: Tenant, browser: httpx.Client
) -> None:
    queued = tenant.job()
    unchecked = tenant.job(training_file=tenant.upload(check=False))
    recipe = queued.model_extra["config"] | RECIPE | {"method": "falqon"}
    request = {"model": tenant.base_model, "training_file": queued.training_file} | REQUEST
    store(tenant, queued.id, requested=request, recipe=recipe)
    store(tenant, unchecked.id, requested=request | {"training_file": unchecked.training_file})

    assert [job.id for job in tenant.client.fine_tuning.jobs.list()] == [unchecked.id, queued.id]
    job = tenant.client.fine_tuning.jobs.retrieve(queued.id)
    config = job.model_extra["config"]
    assert (config["rank"], config["update_rule"], config["weight_decay"]) == (4096, "older", 2.0)
    assert [integration.type for integration in job.integrations] == ["gone", "gone"]
    job = tenant.client.fine_tuning.jobs.retrieve(unchecked.id)
    assert (job.method.type, job.method.dpo.hyperparameters.beta) == ("dpo", 0.2)
    for page in ("/", f"/jobs/{queued.id}", f"/jobs/{unchecked.id}"):
        answer = browser.get(page)
        assert answer.is_success
        assert unchecked.id in answer.text or "4096" in answer.text, page

    clone = tenant.http.post(f"/v1/fine_tuning/jobs/{queued.id}/clone", json={})
    assert (clone.status_code, clone.json()["error"]["type"]) == (400, "invalid_request_error")


def test_a_job_of_older_rules_that_cannot_train_fails_with_the_reason(tenant: Tenant) -> None:
    job = tenant.job(training_file=tenant.upload(check=False))
    request = {"model": tenant.base_model, "training_file": job.training_file}
    store(tenant, job.id, requested=request | {"falqon": {"rank": 4096}})
    tenant.check(job.training_file)
    failed = tenant.client.fine_tuning.jobs.retrieve(job.id)
    assert (failed.status, failed.error.code, failed.error.param) == (
        "failed",
        "invalid_value",
        "rank",
    )
    assert "1024" in failed.error.message
