import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.base.ids import new_id
from app.models import Engine, Worker
from app.web.text import model_page
from app.workers import service as workers
from falqon_core.contract.diagnosis import CheckRow, Diagnosis
from tests.contract.access_objects import an_engine
from tests.support.api import Api, Tenant, installation_admin
from tests.support.pages import SAME_SITE, token
from tests.support.quiet import quiet


@pytest.fixture
def browser(api: Api) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api.url, follow_redirects=True, verify=False, timeout=20) as client:
        yield client


def engine_of(tenant: Tenant, model_id: str) -> Engine:
    with tenant.api.database.read() as session:
        engine = session.get(Engine, (model_id, 0))
    assert engine is not None
    return engine


def test_loaded_models_are_kept_and_unloaded_by_who_administers_them(
    browser: httpx.Client, tenant: Tenant, api: Api
) -> None:
    model = an_engine(tenant)["model"]
    with installation_admin(api) as admin:
        key = admin.headers["authorization"].split()[1]
    form = {"csrf": token(browser.post("/sign-in", data={"key": key}, headers=SAME_SITE))}
    form["model"] = model
    keep = {**form, "keep_loaded": "true"}
    kept = browser.post("/workers/engines/keep", data=keep, headers=SAME_SITE)
    assert (model in kept.text, "kept loaded" in kept.text) == (True, True)
    assert f'href="{model_page(model)}"' not in kept.text, "of a project that is not theirs"
    assert engine_of(tenant, model).keep_loaded
    gone = browser.post("/workers/engines/unload", data=form, headers=SAME_SITE)
    assert "Model unloaded" in gone.text
    assert f'value="{model}"' not in gone.text
    again = browser.post("/workers/engines/unload", data=form, headers=SAME_SITE)
    assert "is not loaded" in again.text


def test_a_project_sees_engines_of_base_models_and_of_its_own_models(
    browser: httpx.Client, tenant: Tenant, api: Api
) -> None:
    other = Tenant(api)
    mine, theirs = an_engine(tenant)["model"], an_engine(other)["model"]
    form = {"csrf": token(browser.post("/sign-in", data={"key": tenant.key}, headers=SAME_SITE))}
    page = browser.get("/workers").text
    assert (f'href="{model_page(mine)}"' in page, theirs in page) == (True, False)
    assert not re.search(r'action="/workers/engines', page)
    form["model"] = mine
    refused = browser.post("/workers/engines/unload", data=form, headers=SAME_SITE)
    assert refused.status_code == 403
    other.http.close()


def test_the_worker_page_shows_the_diagnosis_beside_the_card(
    browser: httpx.Client, tenant: Tenant, api: Api
) -> None:
    rows = (
        CheckRow(name="torch", status="ok", detail="torch of CUDA", seconds=1),
        CheckRow(name="swiglu, 7B", status="failed", detail="wrong: <3 dB", seconds=1),
    )
    worker = new_id("worker-")
    with api.database.transaction() as session:
        workers.mark_seen(session, worker, "h100", 1)
        workers.store_diagnosis(session, worker, Diagnosis(rows=rows, seconds=2))
    browser.post("/sign-in", data={"key": tenant.key}, headers=SAME_SITE)
    page = browser.get("/workers").text
    assert "doctor: 1 failed, 1 ok" in page
    assert "<strong>swiglu, 7B</strong> failed: wrong: &lt;3 dB" in page
    assert "torch of CUDA" not in page, "beside a failure the others are noise"


def test_the_queue_says_how_long_a_job_takes_up_to_its_budget(
    browser: httpx.Client, tenant: Tenant
) -> None:
    budget = {"max_seconds": 3}
    job = tenant.job(suffix="capped", extra_body={"falqon": {"budget": budget}})
    assert job.estimate["seconds"]["expected"] > 3  # type: ignore[attr-defined]
    browser.post("/sign-in", data={"key": tenant.key}, headers=SAME_SITE)
    row = browser.get("/workers").text.partition(">capped<")[2].partition("</tr>")[0]
    assert ">3 s<small>limited by budget</small></td>" in row


def test_the_queue_says_why_a_job_does_not_start(
    browser: httpx.Client, tenant: Tenant, api: Api
) -> None:
    """As the job itself does."""
    quiet(api)
    large = new_id("worker-")
    with api.database.transaction() as session:
        workers.mark_seen(session, large, "h100", 1, 4)
    many = tenant.job(extra_body={"falqon": {"num_gpus": 4}}).id
    other = tenant.job(extra_body={"falqon": {"gpu": "h100"}}).id
    with api.database.transaction() as session:
        session.delete(session.get_one(Worker, large))
        workers.mark_seen(session, new_id("worker-"), "l40s", 1)
    browser.post("/sign-in", data={"key": tenant.key}, headers=SAME_SITE)
    page = browser.get("/workers").text
    for job_id, reason in ((many, "too_few_gpus"), (other, "no_worker_of_device")):
        job: Any = tenant.client.fine_tuning.jobs.retrieve(job_id)
        assert job.queue["reason"] == reason
        row = page.partition(f'href="/jobs/{job_id}"')[2].partition("</tr>")[0]
        assert reason.replace("_", " ") in row
