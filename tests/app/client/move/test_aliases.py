"""Code that names a model of OpenAI gets the one that the operator lets it stand for."""

import openai
import pytest
from sqlalchemy import update

from app.base.ids import new_id
from app.models import DEFAULT_PROJECT_ID, Job, JobStatus, Scope
from tests.app.client.move.conftest import ALIASES, BASE, Move
from tests.support.api import Tenant, jsonl
from tests.support.openai_account import OpenAiAccount


def test_a_job_may_call_its_model_by_an_alias(tenant: Tenant) -> None:
    for alias in ALIASES:
        job = tenant.job(model=alias)
        assert job.model == BASE, "the answer says which model it is"
        assert tenant.client.fine_tuning.jobs.retrieve(job.id).model == BASE
        assert tenant.client.models.retrieve(alias).id == BASE
    clone = tenant.http.post(f"/v1/fine_tuning/jobs/{job.id}/clone").json()
    assert clone["model"] == BASE
    listed = tenant.http.get("/v1/fine_tuning/jobs", params={"model": "gpt-4o-mini"}).json()
    assert len(listed["data"]) == len(ALIASES) + 1


def test_a_name_that_stands_for_nothing_is_refused(tenant: Tenant) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        tenant.job(model="gpt-4.1")
    assert (refusal.value.code, refusal.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        tenant.client.models.delete("gpt-4o-mini")


def test_an_old_name_stands_for_the_new_model_once_its_job_has_succeeded(
    account: OpenAiAccount, tenant: Tenant, move: Move
) -> None:
    name = account.add_job(account.add_file(jsonl()))["fine_tuned_model"]
    assert move("--alias").exit_code == 2
    waiting = move("--yes", "--alias")
    assert f"{name} stands for nothing yet" in waiting.stderr + waiting.stdout
    (job,) = tenant.client.fine_tuning.jobs.list().data
    model = new_id("ft:base:acme::")
    tenant.add_model(model, project_id=tenant.project_id)
    with tenant.api.database.transaction() as session:
        values = {"status": JobStatus.SUCCEEDED, "fine_tuned_model_id": model}
        session.execute(update(Job).where(Job.id == job.id).values(values))
    assert move("--yes", "--alias").exit_code == 0
    assert tenant.client.models.retrieve(name).id == model
    tenant.http.post("/v1/aliases", json={"name": name, "model": BASE})
    assert move("--yes", "--alias").exit_code == 0
    assert tenant.client.models.retrieve(name).id == BASE, "it was changed on purpose"


def test_old_names_are_asked_there_until_each_is_switched(
    account: OpenAiAccount, tenant: Tenant, move: Move
) -> None:
    file = account.add_file(jsonl())
    here, there = (account.add_job(file)["fine_tuned_model"] for _ in range(2))
    account.add_job(file, fine_tuned_model=None, status="failed")
    assert move("--shadow", "--alias", "--yes").exit_code == 2
    refused = move("--shadow", "--yes")
    assert (refused.exit_code, "administers the whole service" in refused.stderr) == (1, True)
    admin = Tenant(tenant.api, Scope.ADMIN, DEFAULT_PROJECT_ID)
    admin.http.post("/v1/aliases", json={"name": here, "model": BASE})
    shown = move("--shadow", FALQON_API_KEY=admin.key)
    assert "Nothing is set yet" in shown.stdout + shown.stderr
    assert admin.http.get(f"/v1/aliases/{there}").status_code == 404
    assert move("--shadow", "--yes", FALQON_API_KEY=admin.key).exit_code == 0
    names = {name: admin.http.get(f"/v1/aliases/{name}").json() for name in (here, there)}
    models = {name: alias["models"][0]["model"] for name, alias in names.items()}
    assert models == {here: BASE, there: f"upstream:{there}"}
    for name in names:
        admin.http.delete(f"/v1/aliases/{name}")
    admin.http.close()
