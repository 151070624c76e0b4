"""The table of jobs: its columns, filters, what is pinned, and what is done with many."""

import re
from typing import Any

import httpx
import pytest

from app.jobs.claims import JobFailure
from app.models import JobStatus, Scope
from app.web.job_table import COLUMNS, DEFAULT
from tests.browser import scene
from tests.contract.test_studies import create
from tests.support.api import Tenant
from tests.support.pages import SAME_SITE, token


def headings(page: httpx.Response) -> list[str]:
    head = re.findall(r"<thead>(.*?)</thead>", page.text, re.DOTALL)[0]
    return re.findall(r'<th scope="col" class="\w*" data-column="(\w+)"', head)


def row_ids(page: httpx.Response) -> list[str]:
    return re.findall(r'<tr id="row-([^"]+)"', page.text)


def chips(page: httpx.Response) -> list[str]:
    nav = re.findall(r'<nav id="summary".*?</nav>', page.text, re.DOTALL)[0]
    return [
        text.replace("\N{NARROW NO-BREAK SPACE}", "")
        for text in re.findall(r">([^<>\n]+)</a>", nav)
    ]


def cell(page: httpx.Response, job_id: str, column: str) -> str:
    row = re.findall(rf'<tr id="row-{job_id}".*?</tr>', page.text, re.DOTALL)[0]
    inner = re.findall(rf'<td class="\w*" data-column="{column}".*?>(.*?)</td>', row, re.DOTALL)[0]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", inner)).strip()


def test_every_column_shows_the_value_of_its_job(browser: httpx.Client, tenant: Tenant) -> None:
    file = tenant.upload()
    hyperparameters = {"n_epochs": 2}
    job = tenant.job(
        training_file=file,
        suffix="desk",
        hyperparameters=hyperparameters,
        metadata={"team": "support"},
        extra_body={"falqon": {"rank": 4, "learning_rate": 0.002}},
    )
    page = browser.get(f"/?columns={','.join(COLUMNS)}")
    cells = {name: cell(page, job.id, name) for name in COLUMNS}
    name = tenant.client.files.retrieve(file).filename
    assert (
        cells
        | {
            "rank": "4",
            "learning_rate": "0.002",
            "epochs": "2",
            "file": name,
            "method": "falqon",
            "metadata": "team=support",
            "id": job.id[-8:],
            "status": cells["status"],
        }
        == cells
    )
    assert cells["status"].startswith("queued")
    assert f'href="/data/{file}"' in page.text


def test_chosen_columns_are_kept_in_the_address_and_at_the_next_visit(
    browser: httpx.Client, tenant: Tenant
) -> None:
    tenant.job(suffix="desk")
    assert headings(browser.get("/")) == list(DEFAULT)
    page = browser.get("/columns?q=desk&column=rank&column=status&column=id")
    assert page.url.params["columns"] == "status,rank,id"
    assert page.url.params["q"] == "desk"
    assert headings(page) == ["status", "rank", "id"]
    again = browser.get("/?status=queued")
    assert (again.url.params["columns"], again.url.params["status"]) == ("status,rank,id", "queued")
    assert 'hx-sse:connect="/live?status=queued&amp;columns=status%2Crank%2Cid"' in again.text
    link = browser.get("/?columns=cost")
    assert headings(link) == ["cost"]
    assert headings(browser.get("/")) == ["status", "rank", "id"], "a link of another is not kept"
    all_again = browser.get(f"/columns?{'&'.join(f'column={name}' for name in DEFAULT)}")
    assert (headings(all_again), all_again.url.query) == (list(DEFAULT), b"")
    browser.cookies.set("falqon_columns", "gone.rank")
    assert headings(browser.get("/")) == ["rank"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("columns=status,price", "there is no column"),
        ("since=yesterday", "since: write a day as 2026-11-28"),
        ("metadata=team", "metadata: write name=value"),
        ("&".join(f"metadata=a={number}" for number in range(17)), "At most 16 are allowed."),
    ],
)
def test_a_bad_query_of_the_jobs_table_is_reported(
    browser: httpx.Client, query: str, words: str
) -> None:
    page = browser.get(f"/?{query}")
    assert (page.status_code, words in page.text) == (400, True), page.text


def test_running_jobs_stand_on_top_where_nobody_sorts(
    browser: httpx.Client, tenant: Tenant
) -> None:
    first, second, third = (tenant.job(suffix="desk").id for _ in range(3))
    tenant.claim(first)
    assert row_ids(browser.get("/")) == [first, third, second]
    assert row_ids(browser.get("/?q=desk")) == [first, third, second]
    assert browser.get("/").text.count("data-pinned") == 1
    assert row_ids(browser.get("/?sort=created")) == [first, second, third]
    assert row_ids(browser.get("/?sort=-name&page=1")) != []
    assert "This page is now empty" in browser.get("/?page=2").text
    assert row_ids(browser.get("/?status=running")) == [first]


def test_chips_count_what_the_other_filters_leave(browser: httpx.Client, tenant: Tenant) -> None:
    jobs = [tenant.job(suffix="desk" if number else "other") for number in range(3)]
    tenant.claim(jobs[0].id)
    tenant.client.fine_tuning.jobs.cancel(jobs[2].id)
    assert chips(browser.get("/")) == ["3 in all", "1 queued", "1 running", "1 cancelled"]
    page = browser.get("/?q=desk&status=cancelled")
    assert chips(page) == ["2 in all", "1 queued", "1 cancelled"]
    assert row_ids(page) == [jobs[2].id]
    assert row_ids(browser.get("/?q=desk&status=failed")) == []
    assert "0 failed" in chips(browser.get("/?q=desk&status=failed"))


def test_jobs_are_filtered_by_model_day_and_metadata(browser: httpx.Client, tenant: Tenant) -> None:
    red = tenant.job(metadata={"team": "red", "try": "1"}).id
    blue = tenant.job(metadata={"team": "blue", "try": "1"}).id
    for query, expected in {
        f"model={tenant.base_model}": [blue, red],
        "model=other": [],
        "metadata=team%3Dred": [red],
        "metadata=try%3D1": [blue, red],
        "metadata=try%3D1&metadata=team%3Dblue": [blue],
        "metadata=": [blue, red],
        "since=2026-01-01": [blue, red],
        "until=2026-01-01": [],
        "until=9999-12-31": [blue, red],
        "since=2199-01-01": [],
    }.items():
        assert row_ids(browser.get(f"/?{query}")) == expected, query
    page = browser.get("/?metadata=try%3D1&metadata=team%3Dblue&q=a")
    assert 'href="/?q=a&amp;metadata=try%3D1"' in page.text


def act(browser: httpx.Client, action: str, ids: list[str], query: str = "") -> httpx.Response:
    form: dict[str, Any] = {"csrf": token(browser.get("/")), "job": ids}
    return browser.post(f"/jobs/{action}?{query}", data=form, headers=SAME_SITE)


def test_many_jobs_are_cancelled_and_deleted_at_once(browser: httpx.Client, tenant: Tenant) -> None:
    jobs = [tenant.job().id for _ in range(3)]
    page = act(browser, "delete", jobs[:1])
    assert "0 jobs are deleted." in page.text
    assert "cancel it before you delete it" in page.text
    page = act(browser, "cancel", jobs[:2], "q=ftjob&sort=created")
    assert "2 jobs are cancelled" in page.text
    assert page.url.query == b"q=ftjob&sort=created"
    page = act(browser, "delete", [*jobs, jobs[0]])
    assert "2 jobs are deleted." in page.text
    assert f"{jobs[2]}: The job is queued" in page.text
    assert [job.id for job in tenant.client.fine_tuning.jobs.list()] == [jobs[2]]
    assert "No job was chosen" in act(browser, "cancel", []).text
    assert act(browser, "cancel", ["ftjob-1"] * 71).status_code == 200
    assert act(browser, "cancel", [f"ftjob-{n}" for n in range(71)]).status_code == 400


def test_a_reader_selects_jobs_only_to_compare(browser: httpx.Client, tenant: Tenant) -> None:
    job_id = tenant.job().id
    browser.post("/sign-in", data={"key": tenant.new_key(Scope.READ)}, headers=SAME_SITE)
    page = browser.get("/")
    assert 'action="/compare"' in page.text
    assert "/jobs/cancel" not in page.text
    assert act(browser, "cancel", [job_id]).status_code == 403


def test_only_a_job_that_will_train_has_planned_steps(
    browser: httpx.Client, tenant: Tenant
) -> None:
    job_id = tenant.job().id
    assert "steps planned" in cell(browser.get("/"), job_id, "progress")
    tenant.client.fine_tuning.jobs.cancel(job_id)
    assert cell(browser.get("/"), job_id, "progress") == "\N{EN DASH}"


def test_jobs_sort_by_validation_loss(browser: httpx.Client, tenant: Tenant) -> None:
    file = tenant.upload()
    claims = [scene.job(tenant, file, "desk", 2) for _ in range(2)]
    for claim, loss in zip(claims, (0.25, 0.75), strict=True):
        scene.write(tenant, claim, [], scene.progress(2).model_copy(update={"valid_loss": loss}))
    page = browser.get("/?sort=valid_loss")
    assert row_ids(page) == [claims[0].job_id, claims[1].job_id]
    assert cell(page, claims[0].job_id, "valid_loss") == "0.25"
    assert row_ids(browser.get("/?sort=-valid_loss")) == [claims[1].job_id, claims[0].job_id]


def test_a_file_that_was_deleted_is_not_linked(browser: httpx.Client, tenant: Tenant) -> None:
    job = tenant.job()
    tenant.client.fine_tuning.jobs.cancel(job.id)
    tenant.client.files.delete(job.training_file)
    page = browser.get("/?columns=file")
    assert cell(page, job.id, "file") == f"{job.training_file} deleted"
    assert f'href="/data/{job.training_file}"' not in page.text


def test_the_jobs_of_a_study_are_one_row_that_opens(browser: httpx.Client, tenant: Tenant) -> None:
    study = create(tenant, name="<first>", seeds=[0, 1])
    single = tenant.job().id
    tenant.client.fine_tuning.jobs.cancel(study["jobs"][0]["id"])
    ids = [job["id"] for job in study["jobs"]]

    def folded(page: httpx.Response) -> list[list[str]]:
        bodies = re.findall(r"<tbody data-study>.*?</tbody>", page.text, re.DOTALL)
        return [re.findall(r'<tr id="row-([^"]+)"', body) for body in bodies]

    page = browser.get("/")
    assert folded(page) == [ids[::-1]]
    assert row_ids(page) == [single, *ids[::-1]]
    assert f'<a href="/studies/{study["id"]}"' in page.text
    words = re.sub(r"\s+", " ", page.text)
    assert "4 jobs:" in words
    assert "3 queued" in words

    filtered = browser.get("/?status=cancelled")
    assert folded(filtered) == [], "one row needs no other"
    assert "in &lt;first&gt;" in filtered.text
    by_name = browser.get("/?sort=name")
    assert folded(by_name) == [], "in another order jobs of several studies are compared"
    assert by_name.text.count("in &lt;first&gt;") == 4
    assert "in &lt;first&gt;" not in page.text, "the row above says it"
    assert ">&lt;first&gt;</a>" in browser.get(f"/jobs/{ids[0]}").text


def test_the_reason_of_a_failure_is_short_with_all_of_it_in_its_title(
    browser: httpx.Client, tenant: Tenant
) -> None:
    message = "training_file is not valid: notes.jsonl: 1 of 3 lines is bad."
    failure = JobFailure("invalid_training_file", message)
    claim = tenant.claim(tenant.job().id)
    scene.finish(tenant, claim, JobStatus.FAILED, failure=failure)
    reason = message.partition(": ")[2]
    assert f'<small class="error" title="{message}">{reason}</small>' in browser.get("/").text
