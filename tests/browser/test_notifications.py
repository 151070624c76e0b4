"""A notification of the browser when a job ends, for who wants it."""

from playwright.sync_api import Page, expect

from app.models import JobStatus
from tests.browser import scene
from tests.browser.job_page import until
from tests.browser.visit import Visits
from tests.support.api import Tenant

RECORD = """
const shown = window.shown = [];
window.Notification = class extends Notification {
  constructor(title, options) { super(title, options); this.text = title; shown.push(this); }
};
"""


def titles(*pages: Page) -> list[str]:
    return [title for page in pages for title in page.evaluate("shown.map((each) => each.text)")]


def watched(page: Page) -> set[str]:
    return set(page.evaluate("JSON.parse(localStorage.getItem('falqon-watched-jobs')) ?? []"))


def test_the_end_of_a_job_is_notified_of_once_in_whatever_tabs_are_open(
    visits: Visits, tenant: Tenant
) -> None:
    ends = scene.job(tenant, tenant.upload(), "ends", 10)
    goes_on = scene.job(tenant, tenant.upload(), "goes-on", 10)
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.context.grant_permissions(["notifications"])
    page.context.add_init_script(RECORD)
    page.reload()
    other = page.context.new_page()
    other.goto(f"/jobs/{ends.job_id}")
    for tab in (page, other):
        expect(tab.get_by_label("Notify me when a job ends")).not_to_be_checked()
    page.get_by_label("Notify me when a job ends").check()
    expect(other.get_by_label("Notify me when a job ends")).to_be_checked()
    until(page, lambda: watched(page) == {ends.job_id, goes_on.job_id}, "a tab has asked")

    scene.finish(tenant, ends, JobStatus.SUCCEEDED)
    until(page, lambda: len(titles(page, other)) > 1, "the end is shown")
    assert sorted(titles(page, other)) == ["Notifications are on", "Succeeded · ends"]
    page.close()  # perhaps the tab that asks; then the other one does
    scene.finish(tenant, goes_on, JobStatus.FAILED)
    until(other, lambda: "Failed · goes-on" in titles(other), "the next end too")
    with other.expect_popup() as popup:
        other.evaluate("shown.at(-1).dispatchEvent(new Event('click'))")
    expect(popup.value.locator("#job-title")).to_contain_text("goes-on")
