"""Which project a page is of, and the way to another one of the same person."""

import re

import httpx
import pytest

from app.models import Scope
from tests.support.api import Api, Tenant, installation_admin
from tests.support.pages import SAME_SITE, token


def project_name(page: httpx.Response) -> str:
    return re.findall(r'popovertarget="project".*?</span><span>([^<]+)<', page.text)[0]


def others(page: httpx.Response) -> dict[str, str]:
    return {
        name: key
        for key, name in re.findall(
            r'name="key" value="([^"]+)">\s*<button class="quiet">Go to ([^<]+)<', page.text
        )
    }


@pytest.fixture
def second(api: Api, tenant: Tenant) -> Tenant:
    with installation_admin(api) as http:
        for project_id, name in ((tenant.project_id, "desk"),):
            http.post(f"/v1/projects/{project_id}", json={"name": name})
        second = Tenant(api)
        http.post(f"/v1/projects/{second.project_id}", json={"name": "law"})
    return second


def sign_in_beside(browser: httpx.Client, key: str) -> httpx.Response:
    assert 'name="other" value="1"' in browser.get("/sign-in?other=1").text
    return browser.post("/sign-in", data={"key": key, "other": "1"}, headers=SAME_SITE)


def test_the_header_names_the_project_and_links_the_sessions_other_projects(
    browser: httpx.Client, tenant: Tenant, second: Tenant
) -> None:
    mine = tenant.job().id
    theirs = second.job().id
    first = browser.get("/")
    assert (project_name(first), others(first)) == ("desk", {})
    page = sign_in_beside(browser, second.key)
    assert (project_name(page), list(others(page))) == ("law", ["desk"])
    assert (theirs in page.text, mine in page.text) == (True, False)
    stale = browser.post("/sign-out", data={"csrf": token(first)}, headers=SAME_SITE)
    assert stale.status_code == 403, "a form of a page of the other project"
    form = {"csrf": token(page), "key": others(page)["desk"]}
    back = browser.post("/project", data=form, headers=SAME_SITE)
    assert (project_name(back), list(others(back))) == ("desk", ["law"])
    assert mine in back.text
    browser.post("/sign-out", data={"csrf": token(back)}, headers=SAME_SITE)
    assert "Sign out" not in browser.get("/").text


def test_the_project_switch_links_valid_keys_of_the_session_only(
    browser: httpx.Client, tenant: Tenant, second: Tenant, api: Api
) -> None:
    csrf = token(browser.get("/"))
    with installation_admin(api) as http:
        keys = http.get("/v1/api_keys", params={"limit": 1000}).json()["data"]
        foreign = next(key["id"] for key in keys if key["project_id"] == second.project_id)
        page = browser.post("/project", data={"csrf": csrf, "key": foreign}, headers=SAME_SITE)
        assert "no longer works" in page.text
        assert project_name(page) == "desk"
        page = sign_in_beside(browser, second.new_key(Scope.READ))
        form = {"csrf": token(page), "key": others(page)["desk"]}
        http.post(f"/v1/projects/{tenant.project_id}/archive")
        page = browser.post("/project", data=form, headers=SAME_SITE)
    assert ("no longer works" in page.text, project_name(page)) == (True, "law")
    assert others(page) == {}


def test_a_sign_in_that_does_not_say_so_keeps_no_other_key(
    browser: httpx.Client, second: Tenant
) -> None:
    page = browser.post("/sign-in", data={"key": second.key}, headers=SAME_SITE)
    assert (project_name(page), others(page)) == ("law", {})


def test_long_names_in_any_script_leave_the_cookie_one_that_browsers_keep(
    browser: httpx.Client, api: Api
) -> None:
    with installation_admin(api) as http:
        for _ in range(10):
            other = Tenant(api)
            http.post(f"/v1/projects/{other.project_id}", json={"name": "設" * 100})
            page = sign_in_beside(browser, other.key)
            other.http.close()
    assert project_name(page) == "設" * 100
    assert len(browser.cookies["falqon_session"]) < 4096 - len("falqon_session")
