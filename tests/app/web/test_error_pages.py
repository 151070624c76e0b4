"""What stands where there is nothing to see: pages for browsers, JSON for programs."""

import re
from collections.abc import Iterator
from html import unescape

import httpx
import pytest

from app.base.storage import StorageUnavailable
from tests.support.api import Api, Tenant
from tests.support.pages import SAME_SITE, sign_in, token

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
def stranger(api: Api) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api.url, verify=False, timeout=20) as client:
        yield client


def sentence(page: httpx.Response) -> str:
    return unescape(re.findall(r'role="alert">([^<]*)<', page.text)[0])


@pytest.mark.parametrize("path", ["/nope", "/new-job", "/jobs/a/b/c", "/data/x/y/z"])
def test_an_unknown_address_is_a_page_with_navigation(browser: httpx.Client, path: str) -> None:
    page = browser.get(path, headers=BROWSER)
    assert page.status_code == 404
    assert page.headers["content-type"].startswith("text/html")
    assert sentence(page) == "This address has no page."
    assert 'aria-label="Screens"' in page.text


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/nope", {}),
        ("/nope", {"accept": "application/json"}),
        ("/v1/nope", BROWSER),
        ("/nope", BROWSER | {"sec-fetch-mode": "cors"}),
    ],
)
def test_a_program_is_answered_with_json(
    stranger: httpx.Client, path: str, headers: dict[str, str]
) -> None:
    answer = stranger.get(path, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")


def test_a_stranger_sees_a_page_without_navigation(stranger: httpx.Client) -> None:
    page = stranger.get("/nope", headers=BROWSER)
    assert (page.status_code, "/sign-in" in page.text) == (404, True)
    assert 'aria-label="Screens"' not in page.text


def test_a_storage_that_is_away_is_a_page(
    browser: httpx.Client, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> None:
        raise StorageUnavailable("nothing answers")

    file_id = tenant.upload()
    monkeypatch.setattr("app.files.service.read_first_lines", read)
    page = browser.get(f"/data/{file_id}", headers=BROWSER)
    assert (page.status_code, sentence(page)) == (503, "The storage does not answer just now.")
    assert int(page.headers["retry-after"]) > 0
    assert 'aria-label="Screens"' in page.text


def test_a_refusal_keeps_the_navigation_and_is_plainly_worded(browser: httpx.Client) -> None:
    for path, status, words in (
        ("/jobs/ftjob-none", 404, "This project has no such job."),
        ("/settings/keys", 403, "right 'admin'"),
        ("/?page=abc", 400, "“page=abc” in the address cannot be read. Write a whole number."),
        ("/jobs/new?like=ftjob-none", 404, "This project has no such job."),
    ):
        page = browser.get(path)
        assert page.status_code == status
        assert words in sentence(page)
        assert 'aria-label="Screens"' in page.text
    page = browser.post("/settings/keys/nothing/here", headers=BROWSER)
    assert (page.status_code, 'aria-label="Screens"' in page.text) == (404, True)
    page = browser.get("/sign-out", headers=BROWSER)
    assert (page.status_code, "only accepts forms" in sentence(page)) == (405, True)


@pytest.mark.parametrize("path", ["/", "/sign-in", "/jobs/new", "/data", "/docs", "/settings"])
def test_the_head_of_a_page_is_that_of_the_page(browser: httpx.Client, path: str) -> None:
    head = browser.head(path)
    page = browser.get(path)
    assert (head.status_code, head.content) == (page.status_code, b"")
    for name in ("content-type", "content-security-policy", "cache-control"):
        assert head.headers.get(name) == page.headers.get(name)


def test_a_form_of_an_ended_session_keeps_what_was_typed(
    browser: httpx.Client, tenant: Tenant
) -> None:
    typed = {"suffix": 'the "best"', "metadata": "team=<b>\r\nnote=x", "rank": "8"}
    file = {"training_file": tenant.upload(), "model": tenant.base_model}
    old = token(browser.get("/jobs/new"))
    browser.cookies.clear()
    page = browser.post("/jobs/new", data={"csrf": old} | typed | file, headers=SAME_SITE)
    assert (page.status_code, "sign in in another tab" in page.text) == (401, True)
    kept = hidden(page)
    assert kept == typed | file | {"csrf": ""}
    sign_in(browser, tenant)
    page = browser.post("/jobs/new", data=kept, headers=SAME_SITE)
    assert (page.status_code, "Send it again?" in page.text) == (403, True)
    assert list(tenant.client.fine_tuning.jobs.list()) == [], "nothing without being asked"
    kept = hidden(page)
    assert {name: kept[name] for name in typed} == typed
    page = browser.post("/jobs/new", data=kept | {"suffix": "best"}, headers=SAME_SITE)
    job = tenant.client.fine_tuning.jobs.retrieve(page.url.path.rpartition("/")[2])
    assert job.metadata == {"team": "<b>", "note": "x"}


def hidden(page: httpx.Response) -> dict[str, str]:
    """Return what the page's form keeps."""
    form = page.text.partition("<main")[2]
    pairs = re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form)
    return {name: unescape(text) for name, text in pairs}


def test_a_script_is_told_that_the_session_has_ended(browser: httpx.Client) -> None:
    old = token(browser.get("/jobs/new"))
    browser.cookies.clear()
    for headers in ({"hx-request": "true"}, {"sec-fetch-mode": "cors"}):
        answer = browser.post("/jobs/new/estimate", data={"csrf": old}, headers=SAME_SITE | headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
