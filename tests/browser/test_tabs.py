"""Many tabs of one browser, which opens six connections to a service over all of them."""

import time

import pytest
from playwright.sync_api import Page, expect

from app.models import JobStatus
from tests.browser import scene
from tests.browser.job_page import status
from tests.browser.visit import SECONDS, Visits
from tests.support.api import Tenant
from tests.support.waiting import wait_for

NUM_TABS = 8
CLICK = 8 * SECONDS  # on a loaded machine; without a free connection a click leads nowhere
HIDE = """hidden => {
    Object.defineProperty(document, "hidden", { get: () => hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""
BLOCKED_STORAGE = """
    const get = () => { throw new DOMException("Access is denied.", "SecurityError"); };
    Object.defineProperty(window, "localStorage", { get });
"""
OTHER_CONTENT = """localStorage.setItem("falqon-streams", "{not JSON");"""
HIDDEN_FROM_THE_START = """
    Object.defineProperty(document, "hidden", { get: () => true, configurable: true });
"""


def tabs(page: Page, path: str, number: int) -> list[Page]:
    """Open further tabs beside one; all of them count as visible in a browser without windows."""
    opened = [page, *(page.context.new_page() for _ in range(number - 1))]
    for tab in opened:
        tab.goto(path, wait_until="commit")
    return opened


def num_streams(tenant: Tenant, followed: str) -> int:
    watched = tenant.api.app.state.services.wakeups._watched.get(followed)
    return watched.num_readers if watched else 0


def test_eight_visible_tabs_show_changes_and_answer_clicks(visits: Visits, tenant: Tenant) -> None:
    claim = scene.job(tenant, tenant.upload(), "shared", 10)
    first = visits.sign_in(tenant.api.url, tenant.key)
    opened = tabs(first, f"/jobs/{claim.job_id}", NUM_TABS)
    for tab in opened:
        expect(status(tab)).to_have_text("running")
    scene.write(tenant, claim, scene.drafts(11), scene.progress(11))
    for tab in opened:
        expect(tab.locator("#job-progress")).to_contain_text("11")
    for tab in opened:
        tab.get_by_role("link", name="Workers").click(timeout=CLICK)
        expect(tab.get_by_role("heading", name="Workers", exact=True)).to_be_visible(timeout=CLICK)


def test_a_hidden_tab_has_no_stream_and_catches_up_when_it_is_shown(
    visits: Visits, tenant: Tenant
) -> None:
    claim = scene.job(tenant, tenant.upload(), "away", 10)
    page = visits.sign_in(tenant.api.url, tenant.key)
    background = page.context.new_page()
    background.add_init_script(HIDDEN_FROM_THE_START)
    for tab in (page, background):
        with tab.expect_response("**/live?*"):
            tab.goto(f"/jobs/{claim.job_id}")
    page.evaluate(HIDE, True)
    wait_for(lambda: page.wait_for_timeout(50) or num_streams(tenant, claim.job_id) == 0)
    scene.write(tenant, claim, scene.drafts(11), scene.progress(11))
    scene.finish(tenant, claim, JobStatus.SUCCEEDED)
    time.sleep(0.2)
    expect(status(page)).to_have_text("running")
    for tab in (page, background):
        tab.evaluate(HIDE, False)
        expect(status(tab)).to_have_text("succeeded", timeout=CLICK)


def test_a_job_that_was_deleted_in_another_tab_is_gone_when_its_tab_is_shown(
    visits: Visits, tenant: Tenant
) -> None:
    claim = scene.job(tenant, tenant.upload(), "gone", 10)
    scene.finish(tenant, claim, JobStatus.FAILED)
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.goto(f"/jobs/{claim.job_id}")
    page.evaluate(HIDE, True)
    assert tenant.http.delete(f"/v1/fine_tuning/jobs/{claim.job_id}").is_success
    page.evaluate(HIDE, False)
    expect(page.get_by_role("heading", name="Not found")).to_be_visible()


@pytest.mark.parametrize("storage", [BLOCKED_STORAGE, OTHER_CONTENT], ids=["blocked", "no JSON"])
def test_a_page_has_a_stream_of_its_own_where_the_local_storage_is_of_no_use(
    visits: Visits, tenant: Tenant, storage: str
) -> None:
    claim = scene.job(tenant, tenant.upload(), "alone", 10)
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.add_init_script(storage)
    page.goto(f"/jobs/{claim.job_id}")
    wait_for(lambda: page.wait_for_timeout(50) or num_streams(tenant, claim.job_id) == 1)
    scene.write(tenant, claim, scene.drafts(11), scene.progress(11))
    expect(page.locator("#job-progress")).to_contain_text("step 11")
