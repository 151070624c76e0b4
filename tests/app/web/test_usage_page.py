import csv
import io
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import update

from app.base.database import now, now_plus
from app.jobs import claims
from app.jobs.events import NewEvent
from app.models import JobStatus, Model, Scope
from app.web.text import model_page
from tests.support.api import Api, Tenant, installation_admin
from tests.support.pages import SAME_SITE
from tests.support.plans import statements
from tests.support.usage import report


def used(tenant: Tenant, accrued: str, days_ago: int = 0) -> str:
    """A job that ended after it had cost so much."""
    job = tenant.job()
    claim = tenant.claim(job.id)
    with tenant.api.database.transaction() as session:
        day = now(session).date() - timedelta(days=days_ago)
        report(session, claim, day, accrued, 7200.0, 1234)
        assert claims.finish(session, claim, JobStatus.FAILED, NewEvent("done"))
    return str(job.api_key_id)


def test_the_usage_page_shows_cost_by_day_key_and_model(
    tenant: Tenant, browser: httpx.Client
) -> None:
    key_id = used(tenant, "3.2500")
    used(tenant, "1.0000", days_ago=8)
    page = browser.get("/usage")
    assert page.status_code == 200
    assert "<dd>$4.25</dd>" in page.text
    assert "<dd>4 h 00 min</dd>" in page.text
    assert page.text.count('width="0.8"') == 30
    assert 'height="65.00"' in page.text, "3.25 on a scale to 5"
    assert "<span>$5</span><span>$2.5</span>" in page.text
    assert key_id in page.text
    assert tenant.base_model in page.text
    assert "By project" not in page.text
    assert "<dd>$3.25</dd>" in browser.get("/usage?days=7").text
    assert "worker-1" in page.text


def test_bytes_are_shown_by_kind(tenant: Tenant, browser: httpx.Client) -> None:
    tenant.upload()
    usage = browser.get("/usage").text.partition("Bytes by kind")[2]
    for kind in ("Files", "Models", "Checkpoints", "Uploads"):
        assert f"<dt>{kind}</dt>" in usage


def test_the_table_is_the_api_s(tenant: Tenant, browser: httpx.Client) -> None:
    key_id = used(tenant, "0.5000")
    answer = browser.get("/usage/table.csv?days=7")
    assert answer.headers["content-disposition"].startswith("attachment")
    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert (row["project_id"], row["api_key_id"]) == (tenant.project_id, key_id)
    assert (row["model"], row["cost_usd"]) == (tenant.base_model, "0.5000")


@pytest.mark.parametrize(
    ("limit", "tone", "says"),
    [
        (40, None, None),
        (15, "warn", "80.0 %"),
        (12, "bad", "has used all of its limit of live jobs"),
    ],
)
def test_a_limit_that_is_nearly_used_up_is_said(
    tenant: Tenant, browser: httpx.Client, limit: int, tone: str | None, says: str | None
) -> None:
    file_id = tenant.upload()
    for _ in range(12):
        tenant.client.fine_tuning.jobs.create(model=tenant.base_model, training_file=file_id)
    tenant.limit(max_live_jobs=limit)
    page = browser.get("/usage").text
    assert (f'data-tone="{tone}"' in page) == (tone is not None)
    if says:
        assert says in page
    for job in tenant.client.fine_tuning.jobs.list(limit=100):
        tenant.client.fine_tuning.jobs.cancel(job.id)


def test_the_installations_admin_sees_all_projects(api: Api, tenant: Tenant) -> None:
    used(tenant, "2.0000")
    with installation_admin(api) as admin:
        key = admin.headers["authorization"].split()[1]
    with httpx.Client(base_url=api.url, follow_redirects=True, verify=False) as browser:
        browser.post("/sign-in", data={"key": key}, headers=SAME_SITE)
        page = browser.get("/usage").text
    assert "By project" in page
    assert "<dt>Running now, this project</dt>" in page
    assert f"acme<small><code>{tenant.project_id}</code>" in page


def test_quotas_of_many_projects_are_read_at_once(api: Api) -> None:
    """The page of an administrator of the installation warns of each of them."""
    tenants = [Tenant(api)]
    with installation_admin(api) as admin, httpx.Client(base_url=api.url, verify=False) as browser:
        key = admin.headers["authorization"].split()[1]
        browser.post("/sign-in", data={"key": key}, headers=SAME_SITE)
        counts = []
        for number in range(2):
            tenants += [Tenant(api) for _ in range(number * 5)]
            for tenant in tenants:
                tenant.limit(max_live_jobs=0)
            with statements(api.database) as executed:
                page = browser.get("/usage").text
            counts.append(len([each for each, _ in executed if "checkpoints" in each]))
            assert page.count("has used all of its limit of live jobs") >= len(tenants)
    assert counts[0] == counts[1]
    for tenant in tenants:
        tenant.limit(max_live_jobs=None)
        tenant.http.close()


def test_a_reader_sees_ids_instead_of_names(api: Api, tenant: Tenant) -> None:
    key_id = used(tenant, "2.0000")
    reader = Tenant(api, Scope.READ, tenant.project_id)
    with httpx.Client(base_url=api.url, follow_redirects=True, verify=False) as browser:
        browser.post("/sign-in", data={"key": reader.key}, headers=SAME_SITE)
        page = browser.get("/usage").text
    assert f"<code>{key_id}</code>" in page
    reader.http.close()


def test_a_model_that_was_deleted_is_not_linked(browser: httpx.Client, tenant: Tenant) -> None:
    used(tenant, "2.0000")
    link = f'href="{model_page(tenant.base_model)}"'
    assert link in browser.get("/usage").text
    with tenant.api.database.transaction() as session:
        gone = update(Model).where(Model.id == tenant.base_model).values(deleted_at=now_plus())
        session.execute(gone)
    page = browser.get("/usage").text
    assert link not in page
    assert f"<code>{tenant.base_model}</code>" in page
