"""A job in the browser, followed over a broken connection and a second attempt."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Route, expect

from app.jobs import claims
from app.jobs.events import NewEvent
from app.models import JobStatus
from app.web import job_view
from tests.browser import scene
from tests.browser.job_page import END, LOSS, drawn, status, until
from tests.browser.visit import Visits
from tests.chaos.users import submit
from tests.contract.access_objects import an_endpoint
from tests.contract.test_studies import create
from tests.support.api import Tenant
from tests.support.fake_trainer import FakeTrainer
from tests.support.proxy import Proxy
from tests.support.service import KEY, Service
from tests.support.waiting import wait_for

POLL_MS = 5000  # of curves that no stream brings
RETRY_MS = 5000  # of a stream that does not come


def step(service: Service, job_id: str) -> int:
    current: Any = service.client.fine_tuning.jobs.retrieve(job_id)
    return int((current.progress or {}).get("step", 0))


@pytest.mark.slow
def test_a_job_is_followed_to_its_end_over_a_broken_connection(
    visits: Visits, fake_service: Service, tmp_path: Path
) -> None:
    service = fake_service
    run_fast = tmp_path / "run_fast"  # once the page is connected again
    fake = FakeTrainer(steps=300, step_seconds=0.2, run_fast=run_fast)
    proxy = Proxy(service.port)
    try:
        page = visits.sign_in(proxy.url, KEY)
        job_id = submit(service.client, fake, suffix="codes")
        # It appears on the page that is open, and moves there.
        row = page.locator(f"#row-{job_id}")
        expect(row.locator(".status")).to_have_text("running", timeout=END)
        expect(row).to_contain_text(re.compile(r"step [1-9]"), timeout=END)
        row.get_by_role("link", name="codes").click()
        until(page, lambda: drawn(page) >= 5, "the chart moves")

        proxy.close()
        cut_at = drawn(page)
        wait_for(lambda: step(service, job_id) > cut_at + 20, what="the job goes on")
        until(
            page,
            lambda: page.locator("#connection").is_visible(),
            "the page says that it is cut off",
        )
        assert drawn(page) < step(service, job_id)
        proxy = Proxy(service.port, at=proxy.port)
        run_fast.touch()

        expect(status(page)).to_have_text("succeeded", timeout=END)
        until(page, lambda: drawn(page) == fake.steps, "the chart is complete")
        assert page.locator(LOSS).get_attribute("data-points") == str(fake.steps)
        messages = [
            event
            for event in service.client.fine_tuning.jobs.list_events(job_id, limit=1000)
            if event.type == "message"
        ]
        assert page.locator("#events li > span").all_text_contents() == [
            event.message for event in messages
        ]
        expect(page.locator("#connection")).to_be_hidden()
        # Nothing of this needed the page to be loaded again; and what is there now is downloaded
        # from it.
        expect(page.locator("#job-artifacts")).to_contain_text("vllm serve")
        page.locator("#files summary").click()
        with page.expect_download() as download:
            page.get_by_role("link", name="config.json", exact=True).click()
        assert json.loads(download.value.path().read_text())["model_type"] == "llama"
    finally:
        proxy.close()


def test_steps_that_a_later_attempt_does_again_are_drawn_once(
    visits: Visits, tenant: Tenant
) -> None:
    first = scene.job(tenant, tenant.upload(), "again", 10)
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.goto(f"/jobs/{first.job_id}")
    until(page, lambda: drawn(page) == 10, "the chart is there")
    with tenant.api.database.transaction() as session:
        lost = NewEvent("The worker was lost")
        claims.release(session, first, lost, counts_as_failure=False, max_infra_failures=1)
    second = tenant.claim(first.job_id)
    with tenant.api.database.transaction() as session:
        claims.update_attempt(session, second, start_step=4)
    events = [event for step in (5, 6) for event in scene.drafts(step)]
    scene.write(tenant, second, events, scene.progress(6))
    until(page, lambda: drawn(page) == 6, "the chart goes back")
    assert page.locator(LOSS).get_attribute("data-points") == "6"
    page.reload()
    until(page, lambda: drawn(page) == 6, "the server says the same")
    assert page.locator(LOSS).get_attribute("data-points") == "6"


@pytest.mark.parametrize("address", ["/studies/{study}", "/compare?job={0}&job={1}"])
def test_curves_and_states_of_several_jobs_follow_them(
    visits: Visits, tenant: Tenant, address: str
) -> None:
    study = create(tenant)
    first, second = (tenant.claim(job["id"]) for job in study["jobs"])
    scene.write(tenant, first, scene.drafts(1), scene.progress(1))
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.clock.install()
    page.goto(address.format(first.job_id, second.job_id, study=study["id"]))
    until(page, lambda: drawn(page) == 1, "the chart is there")
    scene.write(tenant, second, scene.drafts(2), scene.progress(2))
    page.clock.fast_forward(POLL_MS)
    until(page, lambda: drawn(page) == 2, "the second job has a curve")
    for claim in (first, second):
        scene.write(tenant, claim, scene.drafts(3), scene.progress(3))
        scene.finish(tenant, claim, JobStatus.SUCCEEDED)
    page.clock.fast_forward(POLL_MS)
    until(page, lambda: drawn(page) == 3, "the curves are whole")
    expect(page.locator("main [data-status=succeeded]")).to_have_count(2)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.clock.fast_forward(POLL_MS)
    page.evaluate("fetch('/static/mark.svg')")
    assert not any("/metrics" in url for url in requests), "nothing more can come"


def test_a_page_keeps_its_content_while_the_service_answers_with_errors(
    visits: Visits, tenant: Tenant
) -> None:
    file = tenant.upload(check=False)
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.goto(f"/data/{file}")
    refused: list[str] = []

    def refuse(route: Route) -> None:
        refused.append(route.request.url)
        route.fulfill(status=503, content_type="text/html", body="<p>Not available just now</p>")

    page.route(f"**/data/{file}?*", refuse)
    until(page, lambda: len(refused) >= 2, "it asks in vain")
    report = page.locator("#found")
    expect(report).to_contain_text("Checking every line")
    page.unroute(f"**/data/{file}?*")
    tenant.check(file)
    expect(report).to_contain_text("Bad lines")


def test_a_page_that_asks_again_takes_the_focus_from_nothing(
    visits: Visits, tenant: Tenant
) -> None:
    file = tenant.upload(check=False)
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.goto("/data")
    row = page.locator(f"#row-{file}")
    row.get_by_role("link").focus()
    for _ in range(2):
        page.wait_for_event("requestfinished", lambda request: request.url.endswith("/data"))
    expect(row.get_by_role("link")).to_be_focused()
    tenant.check(file)
    expect(row).to_contain_text("valid")
    expect(row.get_by_role("link")).to_be_focused()
    expect(page.locator("#files")).not_to_have_attribute("hx-get", re.compile(""))


def test_older_events_are_added_below_while_new_ones_come(
    visits: Visits, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_view, "MAX_MESSAGES", 2)
    claim = tenant.claim(tenant.job().id)
    scene.write(tenant, claim, [NewEvent(f"Message {n}") for n in range(4)], scene.progress(1))
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.goto(f"/jobs/{claim.job_id}")
    texts = page.locator("#events li > span")
    expect(texts).to_have_text(["Message 3", "Message 2"])
    scene.write(tenant, claim, [NewEvent("Message 4")], scene.progress(2))
    expect(texts).to_have_count(3)
    more = page.get_by_role("link", name="Show more of them")
    more.press("Enter")
    expect(texts).to_have_text([f"Message {n}" for n in (4, 3, 2, 1, 0)])
    expect(more).to_be_focused()
    while more.is_visible():
        num_shown = texts.count()
        more.click()
        expect(texts.nth(num_shown)).to_be_visible()
    expect(texts.last).to_contain_text("Created fine-tuning job")


def test_the_page_of_what_was_deleted_says_so(visits: Visits, tenant: Tenant) -> None:
    endpoint = an_endpoint(tenant)["webhook_endpoint_id"]
    page = visits.sign_in(tenant.api.url, tenant.key)
    with page.expect_response(f"**/{endpoint}/live"):
        page.goto(f"/settings/webhooks/{endpoint}")
    tenant.client.webhooks.delete(endpoint)
    expect(page.get_by_role("heading", name="Not found")).to_be_visible()


def test_the_page_of_what_is_deleted_before_its_stream_says_so(
    visits: Visits, tenant: Tenant
) -> None:
    endpoint = an_endpoint(tenant)["webhook_endpoint_id"]
    page = visits.sign_in(tenant.api.url, tenant.key)

    def delete(route: Route) -> None:
        tenant.client.webhooks.delete(endpoint)
        route.continue_()

    page.route(f"**/{endpoint}/live", delete, times=1)
    page.goto(f"/settings/webhooks/{endpoint}")
    expect(page.get_by_role("heading", name="Not found")).to_be_visible()


def test_a_page_without_its_stream_is_not_loaded_again(visits: Visits, tenant: Tenant) -> None:
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.route("**/studies/live", lambda route: route.fulfill(status=404))
    page.clock.install()
    with page.expect_request(lambda request: request.method == "HEAD"):
        page.goto("/studies")
    expect(page.locator("#connection")).to_be_visible()
    page.evaluate("window.isTheFirst = true")
    with page.expect_response("**/studies/live"):
        page.clock.fast_forward(RETRY_MS)
    assert page.evaluate("window.isTheFirst")


def test_a_page_whose_stream_and_curves_do_not_come_at_once_asks_again(
    visits: Visits, tenant: Tenant
) -> None:
    claim = scene.job(tenant, tenant.upload(), "late", 10)
    page = visits.sign_in(tenant.api.url, tenant.key)
    parts = re.compile("/(metrics|live)")
    page.route(parts, lambda route: route.abort())
    page.goto(f"/jobs/{claim.job_id}")
    expect(page.locator("#connection")).to_be_visible()
    page.unroute(parts)
    until(page, lambda: drawn(page) == 10, "the chart is there")
    expect(page.locator("#connection")).to_be_hidden()
    scene.write(tenant, claim, scene.drafts(11), scene.progress(11))
    until(page, lambda: drawn(page) == 11, "the chart moves")


def test_the_link_that_the_service_prints_signs_in_once(
    visits: Visits, fake_service: Service
) -> None:
    (link,) = wait_for(
        lambda: re.findall(r"http://\S+/sign-in\?link=\S+\n", fake_service.output.read_text())
    )
    page = visits.page()
    page.goto(link)
    expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
    again = visits.page()
    again.goto(link)
    expect(again.get_by_role("alert")).to_contain_text("has been used")


def test_pages_read_without_javascript(visits: Visits, tenant: Tenant) -> None:
    job_id = scene.job(tenant, tenant.upload(), "plain", 10).job_id
    page = visits.sign_in(tenant.api.url, tenant.key, java_script_enabled=False)
    expect(page.locator(f"#row-{job_id}")).to_be_visible()
    page.goto(f"/jobs/{job_id}")
    expect(page.locator("#events")).to_contain_text("Created fine-tuning job")
    outline = page.locator(LOSS).get_by_role("img", name=re.compile("Curve of the training loss"))
    expect(outline).to_be_visible()
    names = [image.get_attribute("aria-label") for image in page.get_by_role("img").all()]
    assert len(names) == len(set(names)) > 1
    csv = page.get_by_role("link", name="CSV").get_attribute("href")
    page.goto("/playground")
    expect(page.get_by_role("heading", name="Playground")).to_be_visible()
    expect(page.get_by_role("button", name="Ask")).to_be_hidden()
    cookies = {cookie["name"]: cookie["value"] for cookie in page.context.cookies()}
    assert httpx.get(f"{tenant.api.url}{csv}", cookies=cookies).text.startswith("step,")
