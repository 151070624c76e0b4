"""The list of files: by what they are for, and by name."""

import re

import httpx
import pytest

from tests.support.api import Tenant, jsonl
from tests.support.rows import checked_file


def names(page: httpx.Response) -> list[str]:
    return re.findall(r'<a href="/data/file-\w+" title="[^"]+">([^<]+)</a>', page.text)


def tabs(page: httpx.Response) -> dict[str, bool]:
    nav = re.findall(r'<nav class="row tabs".*?</nav>', page.text, re.DOTALL)[0]
    return {
        label: "aria-current" in attributes
        for attributes, label in re.findall(r"<a ([^>]+)>([^<]+)</a>", nav)
    }


@pytest.fixture
def results(tenant: Tenant) -> list[str]:
    """As many as fill a page, each newer than any file of the user."""
    tenant.client.files.create(file=("support desk.jsonl", jsonl()), purpose="fine-tune")
    tenant.client.files.create(file=("sql.jsonl", jsonl()), purpose="fine-tune")
    with tenant.api.database.transaction() as session:
        session.add_all(
            checked_file(
                f"file-f{number:023x}{tenant.project_id[-8:]}",
                tenant.project_id,
                f"{tenant.project_id}/{number}",
                filename=f"{number}-metrics.csv",
                purpose="fine-tune-results",
            )
            for number in range(51)
        )
    return [f"{number}-metrics.csv" for number in reversed(range(51))]


def test_results_stand_in_a_tab_of_their_own(
    browser: httpx.Client, tenant: Tenant, results: list[str]
) -> None:
    page = browser.get("/data")
    assert names(page) == ["sql.jsonl", "support desk.jsonl"]
    others = dict.fromkeys(["Results", "All", "Stored answers", "Batches"], False)
    assert tabs(page) == {"Training files": True} | others
    page = browser.get("/data?purpose=fine-tune-results")
    assert (names(page), tabs(page)["Results"]) == (results[:50], True)
    older = re.findall(r'rel="next" href="([^"]+)"', page.text)[0].replace("&amp;", "&")
    assert names(browser.get(older)) == results[50:]
    tenant.client.files.create(file=("notes.txt", b"text"), purpose="user_data")
    assert list(tabs(browser.get("/data"))) == [
        "Training files",
        "user_data",
        "Results",
        "All",
        "Stored answers",
        "Batches",
    ]
    assert names(browser.get("/data?purpose=user_data")) == ["notes.txt"]
    refused = browser.get("/data?purpose=anything")
    assert refused.status_code in {400, 422}
    assert "“purpose=anything” in the address" in refused.text


def test_files_are_found_by_a_part_of_their_name(browser: httpx.Client, results: list[str]) -> None:
    assert names(browser.get("/data?q=DESK")) == ["support desk.jsonl"]
    assert names(browser.get("/data?q=%25")) == []
    assert "No name or id contains “metrics”" in browser.get("/data?q=metrics").text
    page = browser.get("/data?purpose=fine-tune-results&q=metrics")
    assert "purpose=fine-tune-results&amp;q=metrics&amp;after=" in page.text
    assert names(browser.get("/data?purpose=fine-tune-results&q=7-")) == [
        f"{tens}7-metrics.csv" for tens in ("4", "3", "2", "1", "")
    ]
