"""Actions of a page whose service is away, and what a tab is called."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser import scene
from tests.browser.job_page import confirm, status
from tests.browser.visit import Visits
from tests.support.api import Tenant

CANCEL = re.compile(r"/jobs/[^/]+/cancel$")


def test_an_action_without_an_answer_keeps_the_page_and_is_sent_again(
    visits: Visits, tenant: Tenant
) -> None:
    page = visits.sign_in(tenant.api.url, tenant.key)
    job_id = tenant.job().id
    page.goto(f"/jobs/{job_id}")
    page.route(CANCEL, lambda route: route.abort())
    confirm(page, "Cancel", "Cancel the job")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("The service does not answer")
    expect(status(page)).to_have_text("queued")
    page.unroute(CANCEL)
    alert.get_by_role("button", name="Try again").click()
    expect(page.locator(".notice", has_text="The job is cancelled.")).to_be_visible()
    assert tenant.client.fine_tuning.jobs.retrieve(job_id).status == "cancelled"


def test_an_action_that_is_refused_says_why_on_the_page(visits: Visits, tenant: Tenant) -> None:
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.route("**/live?*", lambda route: route.abort())  # it would bring the right token back
    page.goto(f"/jobs/{tenant.job().id}")
    page.evaluate("for (const token of document.getElementsByName('csrf')) token.value = 'x'")
    confirm(page, "Cancel", "Cancel the job")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("This form is out of date")
    alert.get_by_role("button", name="Close").click()
    expect(alert).to_have_count(0)


@pytest.fixture
def abroad(visits: Visits, tenant: Tenant) -> Page:
    return visits.sign_in(
        tenant.api.url, tenant.key, timezone_id="America/New_York", locale="en-GB"
    )


def test_a_tab_tells_how_far_its_job_is_and_times_are_local(abroad: Page, tenant: Tenant) -> None:
    claim = scene.job(tenant, tenant.upload(), "sql-writer", 30)
    abroad.goto(f"/jobs/{claim.job_id}")
    expect(abroad).to_have_title("25 % · sql-writer · FALQON")
    scene.write(tenant, claim, scene.drafts(60), scene.progress(60))
    expect(abroad).to_have_title("50 % · sql-writer · FALQON")
    expect(abroad.get_by_text("Times in America/New_York")).to_be_visible()
    newest = abroad.locator("#events time").first
    local = abroad.evaluate(
        "time => new Date(time).toLocaleTimeString('en-GB', {timeZone: 'America/New_York'})",
        newest.get_attribute("datetime"),
    )
    expect(newest).to_contain_text(local)


def test_every_page_has_the_mark(abroad: Page) -> None:
    icon = abroad.locator("link[rel=icon]").get_attribute("href")
    assert abroad.request.get(icon or "").headers["content-type"].startswith("image/svg+xml")
    expect(abroad.get_by_role("link", name="FALQON").locator("svg")).to_be_visible()
