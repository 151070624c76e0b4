"""A job in the browser: followed to its end over a broken connection, paused, resumed, cancelled."""

import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.visit import SECONDS, Visits
from tests.support.proxy import Proxy
from tests.support.service import KEY, Service
from tests.support.toy_trainer import Toy
from tests.support.waiting import wait_for

LOSS = 'figure[data-keys="train_loss valid_loss"]'
RECIPE = {"learning_rate": 0.01, "checkpoint_every": 20, "eval_every": 30, "validation_fraction": 0.1, "max_seq_length": 64}
END = 180 * SECONDS


def submit(service: Service, suffix: str, epochs: int) -> Any:
    turns = [{"role": "user", "content": "What is the code?"}, {"role": "assistant", "content": "The code is 2024."}]
    file = service.client.files.create(file=("codes.jsonl", (json.dumps({"messages": turns}) + "\n").encode() * 60), purpose="fine-tune")
    return service.client.fine_tuning.jobs.create(
        model="falqon-tiny",
        training_file=file.id,
        suffix=suffix,
        seed=7,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": epochs, "batch_size": 2}}},
        extra_body={"falqon": RECIPE},
    )


def submit_toy(service: Service) -> Any:
    record = json.dumps({"text": Toy(steps=5000, step_seconds=0.02).model_dump_json()}).encode()
    file = service.client.files.create(file=("toy.jsonl", record), purpose="fine-tune")
    return service.client.fine_tuning.jobs.create(model="falqon-tiny", training_file=file.id)


def step(service: Service, job: Any) -> int:
    found: Any = service.client.fine_tuning.jobs.retrieve(job.id)
    return int((found.progress or {}).get("step", 0))


def drawn(page: Page) -> int:
    """The last step in the chart of the loss."""
    return int(page.locator(LOSS).get_attribute("data-last") or 0)


def status(page: Page) -> Locator:
    return page.locator("#job-title .status")


def confirm(page: Page, action: str, sure: str) -> None:
    page.get_by_role("group", name="Actions").get_by_role("button", name=action, exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name=sure, exact=True).click()


def until(page: Page, condition: Callable[[], bool], what: str) -> None:
    """The page's own events are only handled while Playwright waits for something."""
    wait_for(lambda: page.wait_for_timeout(100) or condition(), 40, what)


@pytest.mark.slow
def test_a_job_is_followed_to_its_end_over_a_broken_connection(visits: Visits, service: Service) -> None:
    proxy = Proxy(service.port)
    try:
        page = visits.sign_in(proxy.url, KEY)
        job = submit(service, "codes", epochs=12)
        # It appears on the page that is open, and moves there.
        row = page.locator(f"#row-{job.id}")
        expect(row.locator(".status")).to_have_text("running", timeout=END)
        expect(row).to_contain_text(re.compile(r"step [1-9]"), timeout=END)
        row.get_by_role("link", name="codes").click()
        until(page, lambda: drawn(page) >= 5, "the chart moves")

        proxy.close()
        cut_at = drawn(page)
        wait_for(lambda: step(service, job) > cut_at + 20, 30, "the job goes on")
        until(page, lambda: page.locator("#connection").is_visible(), "the page says that it is cut off")
        assert drawn(page) < step(service, job)
        proxy = Proxy(service.port, at=proxy.port)

        expect(status(page)).to_have_text("succeeded", timeout=END)
        total: int = service.client.fine_tuning.jobs.retrieve(job.id).progress["step"]  # type: ignore[attr-defined]
        until(page, lambda: drawn(page) == total, "the chart is complete")
        assert page.locator(LOSS).get_attribute("data-points") == str(total)
        told = [event for event in service.client.fine_tuning.jobs.list_events(job.id, limit=1000) if event.type == "message"]
        assert page.locator("#events li > span").all_text_contents() == [event.message for event in told]
        expect(page.locator("#connection")).to_be_hidden()
        # Nothing of this needed the page to be loaded again; and what is there now is downloaded from it.
        expect(page.locator("#job-artifacts")).to_contain_text("vllm serve")
        page.get_by_text("Files", exact=True).click()
        with page.expect_download() as download:
            page.get_by_role("link", name="config.json", exact=True).click()
        assert json.loads(download.value.path().read_text())["quantization_config"]
        answers = page.locator("#job-samples figcaption").all_text_contents()
        assert answers[0] == "Step 30"
        assert "Expected" in answers
    finally:
        proxy.close()


def test_pause_resume_cancel_clone_and_delete(visits: Visits, toy_service: Service) -> None:
    service, page, job = toy_service, visits.sign_in(toy_service.url, KEY), submit_toy(toy_service)
    page.goto(f"/jobs/{job.id}")
    until(page, lambda: drawn(page) >= 2, "the chart moves")
    confirm(page, "Pause", "Pause")
    expect(status(page)).to_have_text("paused", timeout=END)
    confirm(page, "Resume", "Resume")
    expect(page.get_by_role("status")).to_contain_text("goes on")
    expect(page.locator("#job-attempts li")).to_have_count(2, timeout=END)
    expect(status(page)).to_have_text("running", timeout=END)
    confirm(page, "Clone", "Submit the copy")
    expect(page.get_by_role("status")).to_contain_text(f"the copy of {job.id}")
    copy = page.url.rpartition("/")[2]
    assert copy != job.id
    confirm(page, "Cancel", "Cancel the job")
    expect(status(page)).to_have_text("cancelled", timeout=END)
    confirm(page, "Delete", "Delete the job")
    expect(page).to_have_url(f"{service.url}/")
    expect(page.locator(f"#row-{copy}")).to_have_count(0)
    # The other one from the list; its row says so without being asked.
    row = page.locator(f"#row-{job.id}")
    row.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()
    expect(row.locator(".status")).to_have_text("cancelled", timeout=END)


def test_the_link_that_the_service_prints_signs_in_once(visits: Visits, service: Service) -> None:
    (link,) = wait_for(lambda: re.findall(r"http://\S+/sign-in\?link=\S+\n", service.output.read_text()))
    page = visits.page()
    page.goto(link)
    expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
    again = visits.page()
    again.goto(link)
    expect(again.get_by_role("alert")).to_contain_text("has been used")


def test_pages_read_without_javascript(visits: Visits, service: Service) -> None:
    job = next(iter(service.client.fine_tuning.jobs.list()))
    page = visits.sign_in(service.url, KEY, java_script_enabled=False)
    expect(page.locator(f"#row-{job.id}")).to_be_visible()
    page.goto(f"/jobs/{job.id}")
    expect(page.locator("#events")).to_contain_text("Created fine-tuning job")
    expect(page.get_by_role("img", name=re.compile("Training loss from"))).to_be_visible()
    csv = page.get_by_role("link", name="CSV").get_attribute("href")
    cookies = {cookie["name"]: cookie["value"] for cookie in page.context.cookies()}
    assert httpx.get(f"{service.url}{csv}", cookies=cookies).text.startswith("step,")
