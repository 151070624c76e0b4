"""A job from a file on somebody's disk, through the pages alone: a bad line, its correction, what
it costs, the job, and what is done to one that runs.
"""

import json
import re
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect
from sqlalchemy import select

from app.models import DEFAULT_PROJECT_ID, Model, ModelImport, OperationStatus, Scope
from tests.browser.job_page import END, confirm, drawn, status, until
from tests.browser.visit import SECONDS, Visits
from tests.support.api import TINY_CONFIG, Api, Tenant
from tests.support.fake_trainer import FakeTrainer
from tests.support.service import KEY, Service

SOON = 120 * SECONDS
GOOD = [
    {
        "messages": [
            {"role": "user", "content": f"What is {n}?"},
            {"role": "assistant", "content": f"It is {n}."},
        ]
    }
    for n in range(40)
]


def written(folder: Path, name: str, records: list[Any]) -> Path:
    path = folder / name
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def drop(page: Page, path: Path) -> None:
    """As a file manager does it."""
    transfer = page.evaluate_handle(
        """([name, text]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([text], name));
            return transfer;
        }""",
        [path.name, path.read_text()],
    )
    for event in ("dragenter", "dragover", "drop"):
        page.locator("[data-drop]").dispatch_event(event, {"dataTransfer": transfer})


def fact(page: Page, name: str) -> Locator:
    return page.locator("#plan div", has=page.get_by_text(name, exact=True)).locator("dd")


def test_a_file_is_dropped_corrected_and_trained_with(
    visits: Visits, fake_service: Service, tmp_path: Path
) -> None:
    page = visits.sign_in(fake_service.url, KEY)
    page.get_by_role("link", name="New job").first.click()
    page.get_by_label("Name").fill("counting")
    bad: dict[str, Any] = {
        "messages": [
            {"role": "user", "content": "What is it?"},
            {"role": "assistant", "content": 4},
        ]
    }
    drop(page, written(tmp_path, "bad.jsonl", [*GOOD[:4], bad]))
    fault = page.get_by_role("group", name="Bad lines").get_by_role("row").nth(1)
    expect(fault).to_contain_text("messages[1].content", timeout=SOON)
    assert fault.get_by_role("cell").first.text_content() == "5"
    expect(page.locator("#report")).to_contain_text("not valid")

    drop(page, written(tmp_path, "good.jsonl", GOOD))
    expect(page.locator("#report")).to_contain_text("40 records (messages)", timeout=SOON)
    first = page.locator("#report .tokens").first
    expect(first).to_contain_text("What is 0?", timeout=SOON)
    assert "".join(first.locator("mark").all_text_contents()).startswith("It is 0.")
    expect(page.get_by_role("img", name=re.compile("Most of 40 sequences"))).to_be_visible()
    expect(page.get_by_label("Name")).to_have_value("counting")

    # The estimate follows what is typed, and a mistake stands at its field.
    expect(fact(page, "Tokens")).to_contain_text("counted")
    expect(fact(page, "Steps")).to_contain_text("10 epochs of 40 records")
    before = fact(page, "Tokens").text_content()
    page.get_by_label("Epochs").fill("40")
    expect(fact(page, "Steps")).to_contain_text("40 epochs")
    assert fact(page, "Tokens").text_content() != before
    page.get_by_label("Adapter rank").fill("5000")
    expect(page.locator("#error-rank")).to_contain_text("1024 or less")
    page.get_by_label("Adapter rank").fill("8")
    expect(page.locator("#error-rank")).to_be_empty()
    page.get_by_label("Epochs").fill("1")
    expect(fact(page, "Steps")).to_contain_text("1 epoch of")
    page.get_by_text("Same request in curl and Python").click()
    expect(page.locator("#code")).to_contain_text('"n_epochs": 1')

    page.get_by_role("button", name="Submit the job").click()
    expect(page.locator("#job-title")).to_contain_text("counting")
    job: Any = fake_service.client.fine_tuning.jobs.retrieve(page.url.rpartition("/")[2])
    assert (job.suffix, job.config["rank"], job.config["num_epochs"]) == ("counting", 8, 1)
    page.get_by_role("group", name="Actions").get_by_role("button", name="Clone").click()
    page.get_by_role("link", name="Edit it first").click()
    expect(page.get_by_label("Adapter rank")).to_have_value("8")
    expect(page.locator("#report")).to_contain_text("good.jsonl")


def test_a_file_that_was_dropped_may_validate(
    visits: Visits, tenant: Tenant, tmp_path: Path
) -> None:
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.goto("/jobs/new")
    drop(page, written(tmp_path, "held-out.jsonl", GOOD))
    expect(page.locator("#report")).to_contain_text("held-out.jsonl")
    page.get_by_label("Validation file").select_option(label="held-out.jsonl")


def test_an_estimate_that_does_not_come_is_said(visits: Visits, tenant: Tenant) -> None:
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.goto("/jobs/new")
    away = "may not match your input"
    page.route("**/jobs/new/estimate", lambda route: route.abort())
    page.get_by_label("Epochs").fill("2")
    expect(page.locator("#plan")).to_contain_text(away)
    page.unroute("**/jobs/new/estimate")
    page.get_by_label("Epochs").fill("3")
    expect(page.locator("#plan")).not_to_contain_text(away)


def test_a_preset_follows_the_file_that_is_chosen_after_it(visits: Visits, tenant: Tenant) -> None:
    file = tenant.upload()
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.goto(f"/jobs/new?model={tenant.base_model}")
    best, epochs = page.get_by_role("button", name="Best"), page.get_by_label("Epochs")
    best.click()
    expect(epochs).to_have_value("6")
    page.get_by_label("Training file").select_option(file)
    expect(epochs).to_have_value("20")
    expect(best).to_have_attribute("aria-pressed", "true")
    epochs.fill("5")
    expect(fact(page, "Steps")).to_contain_text("5 epochs")
    expect(epochs).to_have_value("5")


def test_a_length_that_is_being_typed_inspects_nothing(visits: Visits, tenant: Tenant) -> None:
    page = visits.sign_in(tenant.api.url, tenant.key)

    def inspected() -> list[int]:
        report = tenant.http.get(f"/v1/files/{file}/report").json()
        return [inspection["max_seq_length"] for inspection in report["inspections"]]

    file = tenant.upload()
    page.goto(f"/jobs/new?training_file={file}&model={tenant.base_model}")
    assert len(inspected()) == 1
    page.locator("summary", has_text=re.compile("^Data$")).click()
    length = page.get_by_label("Maximum sequence length")
    for text in ("51", "512"):
        with page.expect_response("**/jobs/new/estimate"):
            length.fill(text)
    code = page.locator("#code")
    expect(code).to_contain_text('"max_seq_length": 512')
    expect(page.locator("#report")).to_contain_text("Counting tokens for")
    assert len(inspected()) == 1
    length.blur()
    until(page, lambda: 512 in inspected(), "what was typed is inspected")
    assert 51 not in inspected()


def test_data_is_looked_at_and_deleted(
    visits: Visits, fake_service: Service, tmp_path: Path
) -> None:
    page = visits.sign_in(fake_service.url, KEY)
    page.goto("/data")
    drop(page, written(tmp_path, "twice.jsonl", [*GOOD, GOOD[0]]))
    expect(page.get_by_role("heading", name="twice.jsonl")).to_be_visible()
    page.get_by_label("Model", exact=True).select_option("falqon-tiny", timeout=SOON)
    page.get_by_label("Maximum sequence length").fill("12")
    page.get_by_role("button", name="Inspect").click()
    region = page.get_by_role("region", name="Tokens for this model")
    expect(region).to_contain_text("1 exact duplicate: line 41 is like 1", timeout=SOON)
    expect(region).to_contain_text(re.compile(r"[1-9]\d* tokens dropped"))
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Delete the file").click()
    expect(page.get_by_role("status")).to_contain_text("is deleted")
    expect(page.get_by_role("link", name="twice.jsonl")).to_have_count(0)


def test_a_job_is_submitted_without_javascript(
    visits: Visits, fake_service: Service, tmp_path: Path
) -> None:
    page = visits.sign_in(fake_service.url, KEY, java_script_enabled=False)
    page.goto("/jobs/new")
    page.get_by_label("A JSONL file").set_input_files(written(tmp_path, "plain.jsonl", GOOD))
    page.get_by_role("button", name="Upload").click()
    expect(page.locator("#report")).to_contain_text("plain.jsonl")
    page.get_by_label("Epochs").fill("2")
    page.get_by_role("button", name="Estimate").click()
    expect(page.get_by_label("Epochs")).to_have_value("2")
    page.get_by_label("Batch size").fill("0")
    page.get_by_role("button", name="Submit the job").click()
    expect(page.locator("#error-batch_size")).to_contain_text("1 or more")
    page.get_by_label("Batch size").fill("4")
    page.get_by_role("button", name="Submit the job").click()
    expect(page.locator("#events")).to_contain_text("Created fine-tuning job")


def submit_fake(service: Service) -> Any:
    record = json.dumps(
        {"text": FakeTrainer(steps=5000, step_seconds=0.02).model_dump_json()}
    ).encode()
    file = service.client.files.create(file=("fake.jsonl", record), purpose="fine-tune")
    return service.client.fine_tuning.jobs.create(model="falqon-tiny", training_file=file.id)


def test_pause_resume_cancel_clone_and_delete(visits: Visits, fake_service: Service) -> None:
    page = visits.sign_in(fake_service.url, KEY)
    job = submit_fake(fake_service)
    page.goto(f"/jobs/{job.id}")
    until(page, lambda: drawn(page) >= 2, "the chart moves")
    confirm(page, "Pause", "Pause")
    expect(status(page)).to_have_text("paused", timeout=END)
    confirm(page, "Resume", "Resume")
    expect(page.get_by_role("status")).to_contain_text("Job resumed.")
    expect(page.locator("#job-attempts li")).to_have_count(2, timeout=END)
    expect(status(page)).to_have_text("running", timeout=END)
    confirm(page, "Clone", "Submit a copy")
    expect(page.get_by_role("status")).to_contain_text(f"the copy of {job.id}")
    copy = page.url.rpartition("/")[2]
    assert copy != job.id
    confirm(page, "Cancel", "Cancel the job")
    expect(status(page)).to_have_text("cancelled", timeout=END)
    confirm(page, "Delete", "Delete the job")
    expect(page).to_have_url(f"{fake_service.url}/")
    expect(page.locator(f"#row-{copy}")).to_have_count(0)
    # The other one from the list; its row says so without being asked.
    row = page.locator(f"#row-{job.id}")
    row.get_by_title("Actions", exact=True).click()
    row.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()
    expect(row.locator(".status")).to_have_text("cancelled", timeout=END)


def test_a_real_model_is_added_without_losing_what_is_filled_in(visits: Visits, api: Api) -> None:
    operator = Tenant(api, Scope.ADMIN, DEFAULT_PROJECT_ID)
    file = operator.upload()
    page = visits.sign_in(api.url, operator.key)
    page.goto(f"/jobs/new?training_file={file}&model={operator.base_model}")
    page.get_by_label("Name").fill("kept")
    part = page.locator("#add-model")
    part.get_by_text("Add a real model").click()
    part.get_by_role("button", name="Add qwen3-0.6b").click()
    expect(part).to_contain_text("being added")
    expect(page.get_by_label("Name")).to_have_value("kept")
    with api.database.transaction() as session:
        added = session.scalars(select(ModelImport)).one()
        added.status = OperationStatus.COMPLETED
        session.add(Model(id=added.model_id, config=TINY_CONFIG, bytes=1))
    part.get_by_role("button", name="Use it").click()
    expect(page.get_by_label("Model", exact=True)).to_have_value("qwen3-0.6b")
    expect(page.get_by_label("Name")).to_have_value("kept")
    expect(page.get_by_label("Training file")).to_have_value(file)


def test_an_empty_project_is_narrow_and_begins_with_example_data(
    visits: Visits, tenant: Tenant
) -> None:
    page = visits.sign_in(tenant.api.url, tenant.key, viewport={"width": 1440, "height": 900})
    main = page.get_by_role("main")
    for path in ("/studies", "/compare", "/batches", "/"):
        page.goto(path)
        assert main.evaluate("it => it.clientWidth") < 900, path
    page.get_by_role("button", name="Try it with example data").click()
    expect(page.get_by_label("Training file")).to_have_value(re.compile("file-.+"))
    assert main.evaluate("it => it.clientWidth") > 1400


def test_a_queued_job_shows_no_empty_panels_until_it_begins(visits: Visits, tenant: Tenant) -> None:
    job_id = tenant.job().id
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.goto(f"/jobs/{job_id}")
    names = ("Is it better than its base?", "Answers to validation prompts", "Attempts")
    expect(page.get_by_role("heading", name="Configuration")).to_be_visible()
    for name in names:
        expect(page.get_by_role("heading", name=name)).to_be_hidden()
    tenant.claim(job_id)
    for name in names:
        expect(page.get_by_role("heading", name=name)).to_be_visible()
