"""The activity page, and that every form of the dashboard which changes something is on it."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from app.base.ids import new_id
from app.http.audited import SAFE, UNAUDITED, event_type_of
from app.models import DEFAULT_PROJECT_ID, Scope
from app.web import pages
from tests.contract.access_objects import (
    EVENT,
    Parameters,
    a_checkpoint,
    a_delivery,
    a_file,
    a_job,
    a_job_model,
    a_key,
    a_model,
    a_paused_job,
    a_study,
    a_worker_token,
    an_ended_job,
    an_endpoint,
    an_engine,
)
from tests.contract.test_access_matrix import routes_of
from tests.support.api import Api, Tenant, jsonl
from tests.support.audit import rows_of
from tests.support.pages import SAME_SITE, sign_in, token

Make = Callable[[Tenant], Parameters]


def nothing(_tenant: Tenant) -> Parameters:
    return {}


def a_project(tenant: Tenant) -> Parameters:
    answer = tenant.http.post("/v1/projects", json={"name": "new"})
    return {"project_id": answer.json()["id"]}


def a_webhook(tenant: Tenant) -> Parameters:
    return {"endpoint_id": an_endpoint(tenant)["webhook_endpoint_id"]}


def a_disabled_webhook(tenant: Tenant) -> Parameters:
    params = a_webhook(tenant)
    path = f"/v1/webhook_endpoints/{params['endpoint_id']}"
    tenant.http.post(path, json={"enabled": False}).raise_for_status()
    return params


def a_sent_delivery(tenant: Tenant) -> Parameters:
    params = a_delivery(tenant)
    return {
        "endpoint_id": params["webhook_endpoint_id"],
        "delivery_id": params["delivery_id"],
    }


def a_job_form(tenant: Tenant) -> Parameters:
    return {"model": tenant.base_model, "training_file": tenant.upload()}


def a_step(tenant: Tenant) -> Parameters:
    return a_checkpoint(tenant) | {"step": "4"}


class Form(NamedTuple):
    make: Make = nothing
    fields: dict[str, Any] = {}
    sends: tuple[str, ...] = ()  # fields whose values `make` gives


FORMS = {
    "/jobs/new": Form(a_job_form, sends=("model", "training_file")),
    "/jobs/{job_id}/cancel": Form(a_job),
    "/jobs/{job_id}/pause": Form(a_job),
    "/jobs/{job_id}/resume": Form(a_paused_job),
    "/jobs/{job_id}/clone": Form(a_job),
    "/jobs/{job_id}/delete": Form(an_ended_job),
    "/jobs/{job_id}/checkpoints/{step}/model": Form(a_step),
    "/studies/{study_id}/cancel": Form(a_study),
    "/data": Form(),
    "/data/sources": Form(
        fields={"source": "https://files.example.com/rows.parquet"},
    ),
    "/data/{file_id}/check": Form(a_file),
    "/data/{file_id}/delete": Form(a_file),
    "/models": Form(fields={"id": "", "source": "builtin:falqon-tiny"}),
    "/models/{model:path}/exports": Form(a_job_model, {"format": "bf16"}),
    "/models/{model:path}/delete": Form(a_model),
    "/workers/engines/keep": Form(an_engine, {"keep_loaded": "true"}, ("model",)),
    "/workers/engines/unload": Form(an_engine, sends=("model",)),
    "/settings/projects": Form(fields={"name": "made"}),
    "/settings/projects/{project_id}": Form(a_project, {"name": "renamed"}),
    "/settings/projects/{project_id}/limits": Form(a_project, {"weight": "2"}),
    "/settings/projects/{project_id}/archive": Form(a_project),
    "/settings/keys": Form(fields={"name": "made", "scope": "read"}),
    "/settings/keys/{key_id}/revoke": Form(a_key),
    "/settings/prices": Form(fields={"device": "cpu", "usd": "0.10", "source": "ours"}),
    "/settings/webhooks": Form(fields={"url": "https://hooks.example.com", "event": EVENT}),
    "/settings/webhooks/{endpoint_id}": Form(
        a_webhook, {"url": "https://hooks.example.com/b", "event": EVENT}
    ),
    "/settings/webhooks/{endpoint_id}/enable": Form(a_disabled_webhook),
    "/settings/webhooks/{endpoint_id}/disable": Form(a_webhook),
    "/settings/webhooks/{endpoint_id}/rotate": Form(a_webhook),
    "/settings/webhooks/{endpoint_id}/delete": Form(a_webhook),
    "/settings/webhooks/{endpoint_id}/deliveries/{delivery_id}/resend": Form(a_sent_delivery),
    "/settings/worker_tokens": Form(fields={"name": "made", "project": DEFAULT_PROJECT_ID}),
    "/settings/worker_tokens/{token_id}/revoke": Form(a_worker_token),
    "/sign-in": Form(),
    "/sign-out": Form(),
}

SEVERAL = {"/jobs/cancel": a_job, "/jobs/delete": an_ended_job}


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


def test_every_form_is_here_or_says_why_not() -> None:
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
    assert row.event_type == event_type_of("POST", path)
    assert (row.project_id, bool(row.session_id)) == (admin.project_id, True)
    assert row.key_id.removeprefix("key_") in admin.key


@pytest.mark.parametrize("path", SEVERAL)
def test_a_form_about_several_jobs_leaves_a_row_for_each(
    admin: Tenant, browser: httpx.Client, path: str
) -> None:
    job_ids = [SEVERAL[path](admin)["job_id"] for _ in range(2)]
    data = {"csrf": token(browser.get("/data")), "job": job_ids}
    answer = browser.post(path, data=data, headers=SAME_SITE)
    rows = rows_of(admin.api.database, answer.headers["x-request-id"])
    assert [row.resource_id for row in rows] == job_ids
    assert {row.event_type for row in rows} == {event_type_of("POST", path)}


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
    assert "Nothing was changed" in by_nobody


def test_only_admins_see_it(api: Api, tenant: Tenant) -> None:
    with httpx.Client(base_url=api.url, verify=False, timeout=20) as client:
        sign_in(client, tenant)
        assert client.get("/activity").status_code == 403
        assert "/activity" not in client.get("/usage").text
