"""Several GPUs for one job: chosen in the form, seen on the pages of job and workers."""

import re

import httpx
import pytest

from app.base.ids import new_id
from app.jobs import claims
from app.workers import service as workers
from tests.support.api import Api, Tenant
from tests.support.pages import SAME_SITE, token
from tests.support.quiet import quiet


@pytest.fixture
def idle(api: Api) -> str:
    """A worker of a machine with four cards, beside another one there."""
    quiet(api)
    machine = new_id("host")
    names = [new_id(f"{machine}-") for _ in range(2)]
    with api.database.transaction() as session:
        for name in names:
            workers.mark_seen(session, name, "h100", 1, 4)
    return names[0]


def send(browser: httpx.Client, path: str = "", **fields: str) -> httpx.Response:
    return browser.post(
        f"/jobs/new{path}",
        data={"csrf": token(browser.get("/jobs/new"))} | fields,
        headers=SAME_SITE,
    )


def visible_text(page: httpx.Response) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.text))


def test_the_form_offers_what_a_worker_has_and_says_what_each_number_buys(
    browser: httpx.Client, tenant: Tenant, idle: str
) -> None:
    fields = {"training_file": tenant.upload(), "model": tenant.base_model, "batch_size": "8"}
    page = send(browser, "/estimate", **fields, num_gpus="2")
    assert "GPUs of one machine, or auto; up to 4 available." in page.text
    assert page.text.index('name="num_gpus"') < page.text.index("More settings")
    assert re.search(r"GPUs Time Cost 1 .* 2 this job .* 3 .* 4 ", visible_text(page))
    assert re.search(r"Device h100 .&nbsp;2", visible_text(page))
    for number, error in (
        ("8", "8 GPUs of one machine are requested, and no worker has more than 4."),
        ("many", "write a whole number from 1 to 64, or auto"),
    ):
        for path in ("", "/estimate"):
            page = send(browser, path, **fields, num_gpus=number)
            assert re.findall(r'id="error-num_gpus"[^>]*>([^<]*)<', page.text) == [error]
    assert tenant.client.fine_tuning.jobs.list().data == []
    job_id = send(browser, **fields, num_gpus="2").url.path.rpartition("/")[2]
    job = tenant.client.fine_tuning.jobs.retrieve(job_id)
    assert (job.num_gpus, job.estimate["num_devices"]) == (2, 2)
    again = browser.get(f"/jobs/new?like={job_id}").text
    assert re.search(r'name="num_gpus" value="2"', again)


def test_pages_say_which_cards_a_job_has(
    browser: httpx.Client, tenant: Tenant, idle: str, api: Api
) -> None:
    job_id = tenant.job(extra_body={"falqon": {"num_gpus": 2}}).id
    assert visible_text(browser.get("/workers")).count("0 of 4 taken") == 2
    with api.database.transaction() as session:
        claims.claim(
            session, owner=idle, device="h100", num_devices=1, lease_seconds=600, cards=(1, 2, 3)
        )
    page = visible_text(browser.get("/workers"))
    assert page.count("2 of 4 taken") == 2, "the cards are those of the machine"
    assert page.count("this job: cards 1, 2") == 1
    assert re.search(r"on h100 . 2, cards 1, 2", visible_text(browser.get(f"/jobs/{job_id}")))
    rows = {row["id"]: row for row in tenant.http.get("/v1/workers").json()["data"]}
    assert (rows[idle]["max_gpus"], rows[idle]["cards"]) == (4, [1, 2])
    assert [row["machine"] for row in rows.values()] == 2 * [idle.rpartition("-")[0]]
    (attempt,) = tenant.client.fine_tuning.jobs.retrieve(job_id).attempts
    assert (attempt["num_devices"], attempt["cards"]) == (2, [1, 2])
