"""Actions of a page whose service is away, and what a tab is called."""

import re

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.browser import scene
from tests.browser.job_page import confirm, status, until
from tests.browser.visit import Visits
from tests.support.api import Tenant

CANCEL = re.compile(r"/jobs/[^/]+/cancel$")
COPY = re.compile(r"/jobs/[^/]+$")


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
    expect(page.locator(".notice", has_text="Job cancelled.")).to_be_visible()
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


def test_a_budget_that_is_refused_stays_as_it_was_typed(visits: Visits, tenant: Tenant) -> None:
    page = visits.sign_in(tenant.api.url, tenant.key)
    job_id = tenant.job(extra_body={"falqon": {"budget": {"max_seconds": 10}}}).id
    tenant.client.fine_tuning.jobs.pause(job_id)
    page.goto(f"/jobs/{job_id}")
    page.get_by_role("button", name="Resume").click()
    seconds = page.get_by_label("Maximum run time in seconds")
    seconds.fill("1 hour")
    page.get_by_role("dialog").get_by_role("button", name="Resume").click()
    expect(page.locator("#toast")).to_contain_text("seconds as a whole number")
    expect(seconds).to_have_value("1 hour")


def test_chosen_jobs_stay_chosen_while_the_service_is_away(visits: Visits, tenant: Tenant) -> None:
    job_id = tenant.job(suffix="chosen").id
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.get_by_label("Choose chosen").check()
    page.route("**/*", lambda route: route.abort())
    chosen = page.get_by_role("form", name="Chosen jobs")
    chosen.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel the jobs").click()
    toast = page.locator("#toast")
    expect(toast).to_contain_text("The service does not answer")
    expect(page.get_by_label("Choose chosen")).to_be_checked()
    page.unroute("**/*")
    toast.get_by_role("button", name="Try again").click()
    expect(page.locator(".notice", has_text="1 job is cancelled")).to_be_visible()
    assert tenant.client.fine_tuning.jobs.retrieve(job_id).status == "cancelled"


# Says so once whatever a press does had time for it: it may ask whether the session stands first.
SAY_PRESSED = """button => button.addEventListener("click", async () => {
  const again = { method: "HEAD", cache: "no-store" };
  for (let i = 0; i < 3; i += 1) await fetch("/settings/webhooks", again);
  console.log("pressed");
})"""


SLOW_PICTURE = """addEventListener("DOMContentLoaded", () => {
  document.body.append(Object.assign(new Image(), { src: "/static/slow.svg" }));
});
addEventListener("pageshow", () => console.log("shown"));"""


def press_twice(page: Page, button: Locator, pending: list[Route]) -> None:
    """Press once more while the page that follows is held back."""
    button.scroll_into_view_if_needed()
    box = button.bounding_box()
    assert box is not None
    at = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    button.evaluate(SAY_PRESSED)
    for _ in range(2):
        with page.expect_console_message(lambda message: message.text == "pressed"):
            page.mouse.click(*at)
        until(page, lambda: len(pending) >= 1, "it is sent")


def test_a_button_pressed_twice_sends_one_request(visits: Visits, tenant: Tenant) -> None:
    page = visits.sign_in(tenant.api.url, tenant.key)
    pending: list[Route] = []
    page.goto("/settings/webhooks")
    page.get_by_label("Endpoint URL").fill("http://127.0.0.1:9/once")
    page.route(
        "**/settings/webhooks",
        lambda route: (
            pending.append(route) if route.request.method == "POST" else route.continue_()
        ),
    )
    press_twice(page, page.get_by_role("button", name="Create endpoint"), pending)
    assert len(pending) == 1
    pending.pop().continue_()
    expect(page.get_by_text("Copy the signing secret now")).to_be_visible()

    page.goto(f"/jobs/{tenant.job().id}")
    page.get_by_role("button", name="Clone").click()
    page.route(COPY, lambda route: pending.append(route))
    press_twice(page, page.get_by_role("button", name="Submit a copy"), pending)
    assert len(list(tenant.client.fine_tuning.jobs.list())) == 2
    page.unroute_all(behavior="ignoreErrors")


def test_what_is_pressed_while_the_page_still_loads_is_sent_once(
    visits: Visits, tenant: Tenant
) -> None:
    page = visits.sign_in(tenant.api.url, tenant.key)
    pictures: list[Route] = []
    pending: list[Route] = []
    page.add_init_script(SLOW_PICTURE)
    page.route("**/static/slow.svg", lambda route: pictures.append(route))
    page.route("**/clone", lambda route: pending.append(route))
    page.goto(f"/jobs/{tenant.job().id}", wait_until="domcontentloaded")
    until(page, lambda: len(pictures) == 1, "the page waits for its picture")
    page.get_by_role("button", name="Clone").click()
    submit = page.get_by_role("button", name="Submit a copy")
    submit.click()
    until(page, lambda: len(pending) == 1, "it is sent")
    with page.expect_console_message(lambda message: message.text == "shown"):
        pictures.pop().fulfill(status=404)
    submit.evaluate(SAY_PRESSED)
    with page.expect_console_message(lambda message: message.text == "pressed"):
        submit.click()
    assert len(pending) == 1
    page.unroute_all(behavior="ignoreErrors")


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


def test_a_title_that_is_being_written_stays_while_the_job_goes_on(
    visits: Visits, tenant: Tenant
) -> None:
    claim = scene.job(tenant, tenant.upload(), "sql-writer", 30)
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.goto(f"/jobs/{claim.job_id}")
    page.get_by_role("button", name="Edit", exact=True).click()
    title = page.get_by_role("dialog").get_by_label("Title")
    title.fill("Joins, first try")
    scene.write(tenant, claim, scene.drafts(60), scene.progress(60))
    expect(page).to_have_title("50 % · sql-writer · FALQON")
    expect(title).to_have_value("Joins, first try")
    page.get_by_role("dialog").get_by_label("Note").fill("With the old schema.")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Joins, first try")
    expect(page.locator("#job-title")).to_contain_text("With the old schema.")
