"""Pages of stored answers: a judgement keeps what it does not change."""

import re
from collections.abc import Iterator
from html import unescape
from typing import Any

import httpx
import pytest

from app.models import Scope
from app.models.job_request import MAX_METADATA_PAIRS
from app.stored_answers.schemas import MAX_CORRECTION_CHARACTERS
from tests.support.answers import add_answer, keep_answers
from tests.support.api import Api, Tenant
from tests.support.pages import SAME_SITE, token

CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "add", "arguments": '{"a": 2, "b": 2}'},
}


@pytest.fixture
def tenant(api: Api) -> Iterator[Tenant]:
    tenant = Tenant(api, Scope.ADMIN)
    keep_answers(tenant)
    yield tenant
    tenant.http.close()


def add(tenant: Tenant, corrected: Any = None, **metadata: str) -> str:
    id_ = add_answer(tenant.api.database, tenant.project_id, **metadata)
    correct(tenant, id_, corrected)
    return id_


def correct(tenant: Tenant, id_: str, corrected: Any) -> None:
    body = {"falqon": {"corrected": corrected}}
    tenant.http.post(f"/v1/chat/completions/{id_}", json=body).raise_for_status()


def stored(tenant: Tenant, id_: str) -> dict[str, Any]:
    answer: dict[str, Any] = tenant.http.get(f"/v1/chat/completions/{id_}").json()
    return answer


def fields_of(page: httpx.Response) -> dict[str, str]:
    """Return what a browser sends of the form when nothing is changed."""
    fields = {"csrf": token(page)}
    for name in ("rating", "shown"):
        if found := re.search(rf'name="{name}" value="([^"]*)"', page.text):
            fields[name] = unescape(found[1])
    if found := re.search(r'<textarea[^>]*name="corrected"[^>]*>(.*?)</textarea>', page.text, re.S):
        text = re.sub(r"\r\n?", "\n", unescape(found[1])).removeprefix("\n")
        fields["corrected"] = text.replace("\n", "\r\n")
    return fields


def save(browser: httpx.Client, id_: str, **changed: str) -> httpx.Response:
    path = f"/answers/{id_}"
    fields = fields_of(browser.get(path)) | changed
    return browser.post(path, data=fields, headers=SAME_SITE)


def test_a_correction_has_the_line_breaks_of_stored_texts(
    browser: httpx.Client, tenant: Tenant
) -> None:
    id_ = add(tenant)
    save(browser, id_, corrected=" one\r\n\r\ntwo\r\n", rating="bad")
    answer = stored(tenant, id_)
    assert answer["corrected"]["content"] == "one\n\ntwo"
    assert answer["metadata"] == {"rating": "bad"}
    save(browser, id_, corrected="", rating="")
    answer = stored(tenant, id_)
    assert (answer["corrected"], answer["metadata"]) == (None, {})


@pytest.mark.parametrize(
    "corrected",
    [
        pytest.param({"content": None, "tool_calls": [CALL]}, id="calls"),
        pytest.param({"tool_calls": [CALL]}, id="calls without content"),
        pytest.param({"content": "I add.", "tool_calls": [CALL]}, id="calls beside a text"),
        pytest.param("\n\n  four\r\nof them \n", id="space around a text"),
        pytest.param("four", id="a text"),
        pytest.param({"content": "a" * (MAX_CORRECTION_CHARACTERS + 1)}, id="a long message"),
        pytest.param(None, id="none"),
    ],
)
def test_a_rating_alone_leaves_the_correction_as_it_is(
    browser: httpx.Client, tenant: Tenant, corrected: Any
) -> None:
    id_ = add(tenant, corrected, team="red")
    before = stored(tenant, id_)["corrected"]
    page = save(browser, id_, rating="good")
    answer = stored(tenant, id_)
    assert answer["corrected"] == before
    assert answer["metadata"] == {"team": "red", "rating": "good"}
    assert "None" not in page.text
    is_read_only = isinstance(corrected, dict) and "tool_calls" in corrected
    assert ("<textarea" not in page.text) == is_read_only
    assert ("call_1" in page.text) == is_read_only


def test_a_reader_sees_the_calls_of_a_correction(browser: httpx.Client, tenant: Tenant) -> None:
    id_ = add(tenant, {"content": None, "tool_calls": [CALL]})
    browser.post("/sign-in", data={"key": tenant.new_key(Scope.READ)}, headers=SAME_SITE)
    page = browser.get(f"/answers/{id_}").text
    assert "call_1" in page
    assert "None" not in page


def test_a_rating_keeps_a_correction_that_came_after_its_page(
    browser: httpx.Client, tenant: Tenant
) -> None:
    id_ = add(tenant)
    fields = fields_of(browser.get(f"/answers/{id_}")) | {"rating": "bad"}
    correct(tenant, id_, "4")
    browser.post(f"/answers/{id_}", data=fields, headers=SAME_SITE)
    answer = stored(tenant, id_)
    assert (answer["corrected"]["content"], answer["metadata"]["rating"]) == ("4", "bad")


def test_a_correction_is_as_long_as_the_api_takes_it(browser: httpx.Client, tenant: Tenant) -> None:
    id_ = add(tenant)
    text = "\N{CJK UNIFIED IDEOGRAPH-56DB}" * 340_000  # almost 1 MiB of UTF-8
    save(browser, id_, corrected=text)
    assert stored(tenant, id_)["corrected"]["content"] == text
    long = "a" * MAX_CORRECTION_CHARACTERS
    page = save(browser, id_, corrected=f"{long}a")
    assert f"corrected: Write at most {MAX_CORRECTION_CHARACTERS} characters." in page.text
    assert stored(tenant, id_)["corrected"]["content"] == text
    save(browser, id_, corrected=long)
    assert stored(tenant, id_)["corrected"]["content"] == long
    assert save(browser, id_, corrected="%" * 2**20 + "a" * 2**14).status_code == 413


def test_a_rating_beside_as_many_pairs_as_are_allowed_says_why_it_is_refused(
    browser: httpx.Client, tenant: Tenant
) -> None:
    pairs = {f"name{i}": "a" for i in range(MAX_METADATA_PAIRS)}
    id_ = add(tenant, **pairs)
    page = save(browser, id_, rating="good", corrected="4")
    assert page.status_code == 200
    assert "rating: the answer has 16 other pairs of metadata, and may have 16 in all" in page.text
    answer = stored(tenant, id_)
    assert (answer["corrected"], answer["metadata"]) == (None, pairs)
    save(browser, id_, corrected="4")
    answer = stored(tenant, id_)
    assert (answer["corrected"]["content"], answer["metadata"]) == ("4", pairs)
    rated = add(tenant, rating="bad", **dict(list(pairs.items())[1:]))
    save(browser, rated, rating="good")
    assert stored(tenant, rated)["metadata"]["rating"] == "good"


@pytest.mark.parametrize("label", ["k" * 65, "k" * 65 + "=good"])
def test_a_filter_that_no_answer_can_match_is_refused_by_a_page(
    browser: httpx.Client, tenant: Tenant, label: str
) -> None:
    id_ = add(tenant)
    words = "metadata: Write at most 64 characters."
    page = browser.get("/answers", params={"label": label})
    assert page.status_code == 400
    assert words in page.text
    for path in ("/answers/delete", "/answers/files"):
        fields = {"csrf": token(browser.get("/answers")), "label": label}
        answer = browser.post(path, data=fields, headers=SAME_SITE)
        assert (answer.status_code, answer.url.path) == (200, "/answers"), path
        assert words in answer.text, path
    assert stored(tenant, id_)["id"] == id_
    assert tenant.client.files.list().data == []
    assert browser.get("/answers", params={"label": "k" * 64}).status_code == 200
