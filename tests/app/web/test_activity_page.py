"""The activity page, and that every form of the dashboard which changes something is on it."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from app.base.ids import new_id
from app.models import DEFAULT_PROJECT_ID, Model, Scope
from app.web import pages
from tests.contract.access_objects import (
    EVENT,
    Parameters,
    a_batch,
    a_checkpoint,
    a_delivery,
    a_file,
    a_group_grant,
    a_job,
    a_job_model,
    a_job_to_evaluate,
    a_key,
    a_model,
    a_model_to_share,
    a_model_to_switch_to,
    a_paused_job,
    a_removed_user,
    a_stored_answer,
    a_study,
    a_user,
    a_worker_token,
    an_alias,
    an_ended_job,
    an_endpoint,
    an_engine,
)
from tests.contract.test_access_matrix import routes_of
from tests.contract.test_file_imports import upload, work
from tests.support.api import Api, Tenant, jsonl
from tests.support.audit import SAFE, UNAUDITED, rows_of
from tests.support.pages import SAME_SITE, sign_in, token

Make = Callable[[Tenant], Parameters]


def nothing(_tenant: Tenant) -> Parameters:
    return {}


def a_project(tenant: Tenant) -> Parameters:
    answer = tenant.http.post("/v1/projects", json={"name": "new"})
    return {"project_id": answer.json()["id"]}


def a_keeping_project(tenant: Tenant) -> Parameters:
    keeping = {"name": "new", "answer_storage": {}}
    return {"project_id": tenant.http.post("/v1/projects", json=keeping).json()["id"]}


def a_webhook(tenant: Tenant) -> Parameters:
    return {"endpoint_id": an_endpoint(tenant)["webhook_endpoint_id"]}


def a_disabled_webhook(tenant: Tenant) -> Parameters:
    params = a_webhook(tenant)
    path = f"/v1/webhook_endpoints/{params['endpoint_id']}"
    tenant.http.post(path, json={"enabled": False}).raise_for_status()
    return params


def a_sent_delivery(tenant: Tenant) -> Parameters:
    params = a_delivery(tenant)
    return {"endpoint_id": params["webhook_endpoint_id"], "delivery_id": params["delivery_id"]}


def a_job_form(tenant: Tenant) -> Parameters:
    return {"model": tenant.base_model, "training_file": tenant.upload()}


def a_name(tenant: Tenant) -> Parameters:
    return {"name": new_id("gpt-"), "model": tenant.base_model}


def a_table(tenant: Tenant) -> Parameters:
    file = upload(tenant, "rows.csv", b"question,answer\na,b\n")
    work(tenant)
    return {"file_id": file["id"]}


def an_answer(tenant: Tenant) -> Parameters:
    return {"answer_id": a_stored_answer(tenant)["completion_id"]}


def a_model_and_a_name(tenant: Tenant) -> Parameters:
    return an_alias(tenant) | {"model": a_model_to_switch_to(tenant)}


def a_model_to_find(tenant: Tenant) -> Parameters:
    return {"search": a_model(tenant)["model"]}


def a_step(tenant: Tenant) -> Parameters:
    return a_checkpoint(tenant) | {"step": "4"}


def a_step_for_llama_cpp(tenant: Tenant) -> Parameters:
    parameters = a_step(tenant)
    with tenant.api.database.transaction() as session:
        model = session.get_one(Model, tenant.base_model)
        model.config = {**model.config, "model_type": "llama"}
    return parameters


class Form(NamedTuple):
    event_type: str
    make: Make = nothing
    fields: dict[str, Any] = {}
    sends: tuple[str, ...] = ()  # fields whose values `make` gives


FORMS = {
    "/jobs/new": Form("job.created", a_job_form, sends=("model", "training_file")),
    "/jobs/new/study": Form(
        "study.created", a_job_form, {"three_rates": "true"}, ("model", "training_file")
    ),
    "/jobs/{job_id}/edit": Form("job.updated", a_job, {"title": "Tone"}),
    "/jobs/{job_id}/rates": Form("study.created", a_job),
    "/jobs/{job_id}/cancel": Form("job.cancelled", a_job),
    "/jobs/{job_id}/pause": Form("job.paused", a_job),
    "/jobs/{job_id}/resume": Form("job.resumed", a_paused_job),
    "/jobs/{job_id}/clone": Form("job.cloned", a_job),
    "/jobs/{job_id}/delete": Form("job.deleted", an_ended_job),
    "/jobs/{job_id}/evaluations": Form("evaluation.created", a_job_to_evaluate),
    "/jobs/{job_id}/checkpoints/{step}/model": Form("export.created", a_step),
    "/jobs/{job_id}/checkpoints/{step}/adapter": Form("export.created", a_step_for_llama_cpp),
    "/studies/{study_id}/cancel": Form("study.cancelled", a_study),
    "/batches/{batch_id}/cancel": Form("batch.cancelled", a_batch),
    "/data": Form("file.created"),
    "/data/sources": Form(
        "file.created", fields={"source": "https://files.example.com/rows.parquet"}
    ),
    "/data/example": Form("file.created"),
    "/data/{file_id}/check": Form("file.checked", a_file),
    "/data/{file_id}/clean": Form("file.created", a_file),
    "/data/{file_id}/columns": Form(
        "file.columns_mapped", a_table, {"prompt": "question", "completion": "answer"}
    ),
    "/data/{file_id}/delete": Form("file.deleted", a_file),
    "/models": Form("model.created", fields={"id": "", "source": "builtin:falqon-tiny"}),
    "/models/{model:path}/serving": Form("model.updated", a_model_to_share, {"serve_as": "shared"}),
    "/models/{model:path}/exports": Form("export.created", a_job_model, {"format": "bf16"}),
    "/models/{model:path}/switch": Form(
        "alias.switch_created", a_model_and_a_name, sends=("alias",)
    ),
    "/models/delete": Form(
        "model.deleted", a_model_to_find, {"confirmed": "yes"}, sends=("search",)
    ),
    "/models/{model:path}/replicas": Form("model.updated", a_model, {"replicas": "2"}),
    "/models/{model:path}/pin": Form("model.pinned", a_model, {"pinned": "yes"}),
    "/models/{model:path}/delete": Form("model.deleted", a_model),
    "/workers/engines/keep": Form("engine.updated", an_engine, {"keep_loaded": "true"}, ("model",)),
    "/workers/engines/unload": Form("engine.deleted", an_engine, sends=("model",)),
    "/settings/projects": Form("project.created", fields={"name": "made"}),
    "/settings/projects/{project_id}": Form("project.updated", a_project, {"name": "renamed"}),
    "/settings/projects/{project_id}/retention": Form(
        "project.updated", a_project, {"models_kept_days": "90"}
    ),
    "/settings/projects/{project_id}/evaluation": Form("project.updated", a_project),
    "/settings/projects/{project_id}/limits": Form("project.updated", a_project, {"weight": "2"}),
    "/settings/projects/{project_id}/archive": Form("project.archived", a_project),
    "/answers/files": Form("file.created", an_answer),
    "/answers/delete": Form("stored_answers.deleted", fields={"model": "missing"}),
    "/answers/{answer_id}": Form("stored_answer.updated", an_answer, {"rating": "good"}),
    "/answers/{answer_id}/delete": Form("stored_answer.deleted", an_answer),
    "/settings/projects/{project_id}/answers": Form(
        "project.updated", a_project, {"kept_days": "7", "max_size": "1 GB", "redact": "[0-9]+"}
    ),
    "/settings/projects/{project_id}/answers/off": Form("project.updated", a_keeping_project),
    "/settings/aliases": Form("alias.updated", a_name, sends=("name", "model")),
    "/settings/aliases/{alias}/rollback": Form("alias.rolled_back", an_alias),
    "/settings/aliases/{alias}/delete": Form("alias.deleted", an_alias),
    "/settings/keys": Form("api_key.created", fields={"name": "made", "scope": "read"}),
    "/settings/keys/{key_id}/revoke": Form("api_key.deleted", a_key),
    "/settings/prices": Form(
        "prices.updated", fields={"device": "cpu", "usd": "0.10", "source": "ours"}
    ),
    "/settings/webhooks": Form(
        "webhook.created", fields={"url": "https://hooks.example.com", "event": EVENT}
    ),
    "/settings/webhooks/{endpoint_id}": Form(
        "webhook.updated", a_webhook, {"url": "https://hooks.example.com/b", "event": EVENT}
    ),
    "/settings/webhooks/{endpoint_id}/enable": Form("webhook.enabled", a_disabled_webhook),
    "/settings/webhooks/{endpoint_id}/disable": Form("webhook.disabled", a_webhook),
    "/settings/webhooks/{endpoint_id}/rotate": Form("webhook.rotated", a_webhook),
    "/settings/webhooks/{endpoint_id}/delete": Form("webhook.deleted", a_webhook),
    "/settings/webhooks/{endpoint_id}/deliveries/{delivery_id}/resend": Form(
        "webhook_delivery.resent", a_sent_delivery
    ),
    "/settings/people": Form(
        "group_grant.updated",
        fields={"group": "ours", "project_id": DEFAULT_PROJECT_ID, "scope": "read"},
    ),
    "/settings/people/grants/{grant_id}/delete": Form("group_grant.deleted", a_group_grant),
    "/settings/people/{user_id}/remove": Form("user.deleted", a_user),
    "/settings/people/{user_id}/readmit": Form("user.added", a_removed_user),
    "/settings/worker_tokens": Form(
        "worker_token.created", fields={"name": "made", "project": DEFAULT_PROJECT_ID}
    ),
    "/settings/worker_tokens/{token_id}/revoke": Form("worker_token.deleted", a_worker_token),
    "/sign-in": Form("login.succeeded"),
    "/sign-out": Form("logout.succeeded"),
}

SEVERAL = {"/jobs/cancel": ("job.cancelled", a_job), "/jobs/delete": ("job.deleted", an_ended_job)}


@pytest.fixture(scope="module")
def admin(api: Api) -> Iterator[Tenant]:
    tenant = Tenant(api, Scope.ADMIN, DEFAULT_PROJECT_ID)
    yield tenant
    tenant.http.close()


@pytest.fixture
def browser(api: Api, admin: Tenant) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api.url, verify=False, timeout=20) as client:
        sign_in(client, admin)
        yield client


def test_every_form_is_audited_or_listed_as_unaudited() -> None:
    changes = {path for method, path in routes_of(pages.router.routes) if method not in SAFE}
    assert changes == set(FORMS) | set(SEVERAL) | (set(UNAUDITED) & changes)


@pytest.mark.parametrize("path", FORMS)
def test_a_form_leaves_one_row(admin: Tenant, browser: httpx.Client, path: str) -> None:
    form = FORMS[path]
    params = form.make(admin)
    address = path
    for name, value in params.items():
        address = address.replace(f"{{{name}:path}}", value).replace(f"{{{name}}}", value)
    data = {"csrf": token(browser.get("/data"))} | form.fields
    data |= {name: params[name] for name in form.sends}
    if path == "/models":
        data["id"] = new_id("base-")
    if path == "/sign-in":
        data["key"] = admin.key
    files = {"file": ("rows.jsonl", jsonl())} if path == "/data" else None
    answer = browser.post(address, data=data, files=files, headers=SAME_SITE)
    assert answer.status_code in {200, 303}, answer.text
    (row,) = rows_of(admin.api.database, answer.headers["x-request-id"])
    assert row.event_type == form.event_type
    assert (row.project_id, bool(row.session_id)) == (admin.project_id, True)
    assert row.key_id.removeprefix("key_") in admin.key


@pytest.mark.parametrize("path", SEVERAL)
def test_a_form_about_several_jobs_leaves_a_row_for_each(
    admin: Tenant, browser: httpx.Client, path: str
) -> None:
    event_type, make = SEVERAL[path]
    job_ids = [make(admin)["job_id"] for _ in range(2)]
    data = {"csrf": token(browser.get("/data")), "job": job_ids}
    answer = browser.post(path, data=data, headers=SAME_SITE)
    rows = rows_of(admin.api.database, answer.headers["x-request-id"])
    assert [row.resource_id for row in rows] == job_ids
    assert {row.event_type for row in rows} == {event_type}


def test_the_page_says_who_changed_what_and_filters(admin: Tenant, browser: httpx.Client) -> None:
    job, other = admin.job(), admin.job()
    admin.client.fine_tuning.jobs.cancel(job.id)
    page = browser.get("/activity", params={"resource": job.id}).text
    assert page.count(f'href="/jobs/{job.id}"') == 2
    assert "job.cancelled" in page
    assert other.id not in page
    cancelled = browser.get("/activity", params={"resource": job.id, "event": "job.cancelled"}).text
    assert cancelled.count(f'href="/jobs/{job.id}"') == 1
    admin.http.delete(f"/v1/fine_tuning/jobs/{job.id}").raise_for_status()
    deleted = browser.get("/activity", params={"resource": job.id}).text
    assert (deleted.count(f"<code>{job.id}</code>"), f'href="/jobs/{job.id}"' in deleted) == (
        3,
        False,
    )
    by_nobody = browser.get("/activity", params={"key": "key_nobody"}).text
    assert "No activity" in by_nobody


def test_the_activity_page_is_for_admins_only(api: Api, tenant: Tenant) -> None:
    with httpx.Client(base_url=api.url, verify=False, timeout=20) as client:
        sign_in(client, tenant)
        assert client.get("/activity").status_code == 403
        assert "/activity" not in client.get("/usage").text
