"""The pages of studies: which there are, their tables, and what a visitor does with one."""

import re
from itertools import takewhile
from typing import Any

import httpx
import pytest

from app.web.pages import studies
from tests.contract.test_studies import STUDIES, body, create, finish, post
from tests.support.api import Tenant
from tests.support.pages import SAME_SITE, token


def has_curves_of(page: httpx.Response, study: dict[str, Any]) -> list[bool]:
    """Return, job by job of a study, whether its page shows the curves."""
    runs = page.text.partition("data-runs='")[2].partition("'>")[0]
    return [job["id"] in runs for job in study["jobs"]]


def methods_in(page: httpx.Response) -> list[str]:
    return re.findall(r'data-series="\d+"></span> ([\w-]+)', page.text.partition("charts-title")[0])


def test_a_study_is_a_table_with_curves_of_each_method(
    browser: httpx.Client, tenant: Tenant
) -> None:
    study = create(tenant, name="<mine>", seeds=[0, 1])
    for index, loss in ((0, 2.0), (1, 2.5), (2, 1.0), (3, 1.5)):
        finish(tenant, study["jobs"][index]["id"], loss)
    page = browser.get(f"/studies/{study['id']}")
    assert "&lt;mine&gt;" in page.text
    assert methods_in(page) == ["FALQON", "LoRA"]
    for text in ("2.2500 ± 0.3536", "seed 1", "table.csv", "About these columns"):
        assert text in page.text
    assert "Paper" not in page.text, "figures of another model are no results"
    best = re.findall(r"data-best><strong>([^<]+)", page.text)
    assert "1.2500 ± 0.3536" in best
    assert "2.2500 ± 0.3536" not in best
    alike = re.findall(r"The same for all: ([^<]+)", page.text)[0]
    assert "Jobs 2" in alike, "what is the same in every row needs no column"
    assert "Base error" not in page.text, "no job measures it"
    assert "/live?" not in page.text, "nothing goes on any more"
    assert has_curves_of(page, study) == [True, False, True, False]

    by_loss = browser.get(f"/studies/{study['id']}?sort=valid_loss_as_served")
    assert methods_in(by_loss) == ["LoRA", "FALQON"]
    assert 'aria-sort="ascending"' in by_loss.text
    descending = browser.get(f"/studies/{study['id']}?sort=-valid_loss_as_served")
    assert methods_in(descending) == ["FALQON", "LoRA"]
    assert browser.get(f"/studies/{study['id']}?sort=colour").status_code == 400

    for name in ("table.md", "table.csv"):
        downloaded = browser.get(f"/studies/{study['id']}/{name}")
        assert downloaded.text == tenant.http.get(f"{STUDIES}/{study['id']}/{name}").text
        assert "attachment" in downloaded.headers["content-disposition"]


def test_the_curves_are_those_of_the_best_rate(browser: httpx.Client, tenant: Tenant) -> None:
    study = create(tenant, rate_factors=[0.5, 1])
    page = browser.get(f"/studies/{study['id']}")
    assert "first job per method at its best rate" in page.text
    assert has_curves_of(page, study) == [True, False, True, False], "no rate is better yet"
    for job, loss in zip(study["jobs"], (2.0, 1.0, 1.0, 2.0), strict=True):
        finish(tenant, job["id"], loss)
    page = browser.get(f"/studies/{study['id']}")
    assert has_curves_of(page, study) == [False, True, True, False]


def test_studies_are_listed_and_lead_to_their_jobs(browser: httpx.Client, tenant: Tenant) -> None:
    assert "Compare methods on your own data" in browser.get("/studies").text
    study = create(tenant, name="first try")
    listed = browser.get("/studies").text
    assert "first try" in listed
    assert "FALQON, LoRA" in listed
    assert "2 queued" in listed
    job_page = browser.get(f"/jobs/{study['jobs'][0]['id']}").text
    assert f'href="/studies/{study["id"]}"' in job_page


def test_older_studies_lead_back_to_the_newest(
    browser: httpx.Client, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(tenant, name="first")
    create(tenant, name="second")
    monkeypatch.setattr(studies, "PAGE_SIZE", 1)
    newest = browser.get("/studies").text
    (older,) = re.findall(r'rel="next" href="([^"]+)"', newest)
    assert ("second" in newest, ">Newest<" in newest) == (True, False)
    oldest = browser.get(older).text
    assert ("first" in oldest, 'href="/studies">Newest<' in oldest) == (True, True)
    assert 'rel="next"' not in oldest
    last_id = tenant.http.get(f"{STUDIES}?after={older.rpartition('=')[2]}").json()["last_id"]
    beyond = browser.get(f"/studies?after={last_id}").text
    assert "There are no older studies" in beyond
    assert 'href="/studies">Newest<' in beyond


def test_a_study_is_cancelled_from_its_page(browser: httpx.Client, tenant: Tenant) -> None:
    study = post(tenant, body(tenant)).json()
    page = browser.get(f"/studies/{study['id']}")
    assert f"/studies/{study['id']}/live?" in page.text
    cancelled = browser.post(
        f"/studies/{study['id']}/cancel", data={"csrf": token(page)}, headers=SAME_SITE
    )
    assert "Jobs cancelled" in cancelled.text
    assert "2 cancelled" in browser.get("/studies").text


def test_the_table_follows_its_jobs(browser: httpx.Client, tenant: Tenant) -> None:
    study = create(tenant)
    with browser.stream("GET", f"/studies/{study['id']}/live?sort=-steps") as stream:
        lines = stream.iter_lines()
        assert any("queued" in line for line in lines)
        finish(tenant, study["jobs"][0]["id"], 1.5)
        assert any("1.5000" in line for line in lines)
    cancels = f'action="/studies/{study["id"]}/cancel"'
    with browser.stream("GET", f"/studies/{study['id']}/live") as stream:
        lines = stream.iter_lines()
        assert cancels in "".join(takewhile(bool, lines))
        tenant.client.fine_tuning.jobs.cancel(study["jobs"][1]["id"])
        ended = "".join(takewhile(bool, lines))
        assert ("cancelled" in ended, cancels in ended) == (True, False), "nothing is left"


def test_the_list_follows_its_studies(browser: httpx.Client, tenant: Tenant) -> None:
    assert 'hx-sse:connect="/studies/live"' in browser.get("/studies").text
    with browser.stream("GET", "/studies/live") as stream:
        lines = stream.iter_lines()
        assert any("Compare methods on your own data" in line for line in lines)
        study = create(tenant, name="first try")
        assert any("2 queued" in line for line in lines)
        tenant.client.fine_tuning.jobs.cancel(study["jobs"][0]["id"])
        assert any("1 cancelled" in line for line in lines)
    assert browser.get("/studies/live?after=nothing").status_code == 400


def test_a_file_that_was_deleted_is_not_linked(browser: httpx.Client, tenant: Tenant) -> None:
    study = create(tenant)
    link = f'href="/data/{study["training_file"]}"'
    assert link in browser.get(f"/studies/{study['id']}").text
    for job in study["jobs"]:
        tenant.client.fine_tuning.jobs.cancel(job["id"])
    tenant.client.files.delete(study["training_file"])
    page = browser.get(f"/studies/{study['id']}").text
    assert link not in page
    assert "training file deleted" in page


def test_three_rates_of_a_job_train_as_it_did(browser: httpx.Client, tenant: Tenant) -> None:
    official = {"n_epochs": 2, "learning_rate_multiplier": 2.0}
    job = tenant.job(
        suffix="desk",
        seed=7,
        method={"type": "supervised", "supervised": {"hyperparameters": official}},
        extra_body={"falqon": {"method": "lora", "rank": 4, "budget": {"max_cost_usd": "1.50"}}},
    )
    page = browser.get(f"/jobs/{job.id}")
    form = {"csrf": token(page)}
    answer = browser.post(f"/jobs/{job.id}/rates", data=form, headers=SAME_SITE)
    study = tenant.http.get(f"/v1/falqon{answer.url.path}").json()
    assert (study["name"], len(study["jobs"])) == ("desk, three rates", 3)
    original: Any = tenant.client.fine_tuning.jobs.retrieve(job.id)
    rates = []
    for each in study["jobs"]:
        trained: Any = tenant.client.fine_tuning.jobs.retrieve(each["id"])
        rates.append(trained.config["learning_rate"] / original.config["learning_rate"])
        assert trained.config | {"learning_rate": 0} == original.config | {"learning_rate": 0}
        assert trained.budget == original.budget
    assert rates == pytest.approx([0.3, 1.0, 3.0])


def test_a_job_of_a_rate_that_has_no_triple_says_so(browser: httpx.Client, tenant: Tenant) -> None:
    job = tenant.job(extra_body={"falqon": {"learning_rate": 0.5}})
    form = {"csrf": token(browser.get(f"/jobs/{job.id}"))}
    answer = browser.post(f"/jobs/{job.id}/rates", data=form, headers=SAME_SITE)
    assert answer.url.path == f"/jobs/{job.id}"
    assert "falqon.learning_rate" in answer.text
    assert tenant.http.get(STUDIES).json()["data"] == []


def start(browser: httpx.Client, **fields: Any) -> httpx.Response:
    form = fields | {"csrf": token(browser.get("/jobs/new"))}
    return browser.post("/jobs/new/study", data=form, headers=SAME_SITE)


def test_the_form_of_a_job_starts_a_study(browser: httpx.Client, tenant: Tenant) -> None:
    data = {"model": tenant.base_model, "training_file": tenant.upload(), "n_epochs": "1"}
    methods = ["falqon", "lora"]
    answer = start(browser, **data, methods=methods, three_rates="true", rank="4", suffix="desk")
    study = tenant.http.get(f"/v1/falqon{answer.url.path}").json()
    assert study["name"] == "desk"
    assert [job["method"] for job in study["jobs"]] == ["falqon"] * 3 + ["lora"] * 3
    for job in study["jobs"]:
        trained: Any = tenant.client.fine_tuning.jobs.retrieve(job["id"])
        assert (trained.config["rank"], trained.config["num_epochs"]) == (4, 1)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "Choose methods, or three learning rates."),
        ({"methods": ["sgd"]}, "falqon"),
        ({"methods": ["lora", "lora"]}, "each can be there once"),
        ({"methods": ["lora"], "rank": "5000"}, "1024 or less"),
        ({"methods": ["lora"], "training_file": "file-none"}, "file-none"),
    ],
)
def test_a_study_that_cannot_be_keeps_what_was_chosen(
    browser: httpx.Client, tenant: Tenant, fields: dict[str, Any], words: str
) -> None:
    data = {"model": tenant.base_model, "training_file": tenant.upload()}
    answer = start(browser, **(data | fields))
    assert answer.status_code == 400
    assert words in "".join(re.findall(r'class="error small field-error"[^<]*<?', answer.text))
    ticked = re.findall(r'name="methods" value="(\w+)" checked', answer.text)
    assert ticked == [name for name in set(fields.get("methods", [])) if name != "sgd"]
    assert tenant.http.get(STUDIES).json()["data"] == []
