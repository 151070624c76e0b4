"""What users and models write is shown, never run: names, metadata, errors, events and answers, on
the page and through its stream.

That no dialog opens and no header's policy is broken, `visits` asserts for every test.
"""

import json
from urllib.parse import urlencode

from playwright.sync_api import expect

from app.jobs.claims import JobFailure
from app.jobs.events import NewEvent
from app.models import JobStatus
from app.models.trainer_log import TrainerLog
from app.web.text import model_page
from tests.browser import scene
from tests.browser.visit import Visits
from tests.support.api import Tenant
from tests.support.hostile import PAYLOADS
from worker.attempt.trainer_log import clean


def test_hostile_text_in_a_job_is_shown_as_text(visits: Visits, tenant: Tenant) -> None:
    metadata = {f"{payload[:40]}": payload for payload in PAYLOADS[::4]}
    file = tenant.client.files.create(
        file=(PAYLOADS[3], b'{"text": "four"}\n' * 12), purpose="fine-tune"
    ).id
    tenant.check(file)
    claim = tenant.claim(tenant.job(training_file=file, metadata=metadata).id)
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.goto(f"/jobs/{claim.job_id}")
    before = page.title()
    # Through the stream, while the page is open.
    samples = [
        {"prompt": payload, "completion": payload, "expected": payload} for payload in PAYLOADS
    ]
    drafts = [*map(NewEvent, PAYLOADS), NewEvent("answers", data={"step": 1, "samples": samples})]
    log = clean("\n".join(PAYLOADS).encode())
    tenant.store_log(claim, TrainerLog(head=f"{log}\n"))
    scene.write(tenant, claim, drafts, scene.progress(1))
    page.get_by_text("Trainer log").click()
    expect(page.locator("#log-text pre")).to_contain_text(PAYLOADS[-1])
    assert page.locator("#log-text pre").text_content() == f"{log}\n"
    expect(page.locator("#events li > span", has_text="answers")).to_be_visible()
    expect(page.locator(".sample")).to_have_count(len(PAYLOADS))
    scene.finish(tenant, claim, JobStatus.FAILED, failure=JobFailure("x", PAYLOADS[0], PAYLOADS[1]))
    expect(page.get_by_role("alert")).to_contain_text(PAYLOADS[0])
    # And in the page itself.
    for _ in range(2):
        texts = page.locator("#events li > span").all_text_contents()
        assert {" ".join(text.split()) for text in texts} >= {
            " ".join(payload.split()) for payload in PAYLOADS
        }
        for part in (".beside > figure:not(.expected) p", ".expected p"):
            assert page.locator(f".sample {part}").all_text_contents() == [
                payload.replace("\r\n", "\n") for payload in PAYLOADS
            ]
        prompts = page.locator(".sample .chat").all_text_contents()
        for text, payload in zip(prompts, PAYLOADS, strict=True):
            assert " ".join(text.split()).endswith(" ".join(payload.split()))
        page.reload()
    assert page.title() == before.replace("Running", "Failed")
    page.goto("/")
    expect(page.locator(f"#row-{claim.job_id}")).to_contain_text(PAYLOADS[0])


def test_hostile_text_in_a_search_is_shown_as_text(visits: Visits, tenant: Tenant) -> None:
    tenant.job()
    page = visits.sign_in(tenant.api.url, tenant.key)
    for payload in PAYLOADS[::12]:
        page.goto(f"/?{urlencode({'q': payload})}")
        expect(page.get_by_text("No matching jobs")).to_be_visible()
        expect(page.get_by_text(f"“{payload.strip()}”")).to_be_visible()


def test_models_with_odd_names_are_text(visits: Visits, tenant: Tenant) -> None:
    file = tenant.upload()
    ids = [f"{payload}-{tenant.project_id}" for payload in PAYLOADS[::5]]
    for id_ in ids:
        tenant.add_model(id_, project_id=tenant.project_id)
    jobs = [tenant.job(training_file=file, model=id_).id for id_ in ids]
    page = visits.sign_in(tenant.api.url, tenant.key)
    for job_id, id_ in zip(jobs, ids, strict=True):
        assert " ".join(
            (page.locator(f"#row-{job_id} .name small").text_content() or "").split()
        ) == " ".join(id_.split())
    page.goto(f"/compare?job={jobs[0]}&job={jobs[1]}")
    expect(page.get_by_role("region", name="What differs").locator("table").first).to_contain_text(
        ids[0]
    )


def test_hostile_text_in_a_file_is_shown_as_text(visits: Visits, tenant: Tenant) -> None:
    page = visits.sign_in(tenant.api.url, tenant.key)
    for payload in PAYLOADS[::6]:
        records = [
            {"text": payload, payload[:40]: 1},
            {"messages": [{"role": payload[:40], "content": payload}]},
        ]
        content = "".join(f"{json.dumps(record)}\n" for record in records).encode()
        file = tenant.client.files.create(
            file=(payload[:40].replace("/", "").replace("\n", ""), content), purpose="fine-tune"
        ).id
        tenant.check(file)
        scene.inspected(tenant, good := tenant.upload(), payload)
        for path in (f"/data/{file}", f"/jobs/new?training_file={file}"):
            page.goto(path)
            expect(page.get_by_role("group", name="Bad lines").first).to_be_visible()
        for path in (
            f"/data/{good}?model={tenant.base_model}",
            f"/jobs/new?training_file={good}&model={tenant.base_model}",
        ):
            page.goto(path)
            learned = page.locator(".tokens mark").all_text_contents()
            assert learned == [payload.replace("\r\n", "\n")] * 2
    page.goto("/data")


def test_hostile_titles_and_notes_are_shown_as_text(visits: Visits, tenant: Tenant) -> None:
    page = visits.sign_in(tenant.api.url, tenant.key)
    for payload in PAYLOADS[::8]:
        text = payload[:512]
        job_id = tenant.job(metadata={"title": text, "note": text}).id
        page.goto(f"/jobs/{job_id}")
        note = page.locator("#job-title .note").text_content() or ""
        assert note.split() == text.split()
        page.get_by_role("button", name="Edit", exact=True).click()
        expect(page.get_by_role("dialog").get_by_label("Title")).to_be_visible()
        tenant.client.fine_tuning.jobs.cancel(job_id)  # many queued ones are folded
        page.goto("/")
        expect(page.locator(f"#row-{job_id}")).to_be_visible()


def test_a_readme_with_columns_of_numbers_keeps_the_policy(visits: Visits, tenant: Tenant) -> None:
    ids = scene.scene(tenant)
    tenant.store_artifacts(ids.model, {"README.md": b"|step|loss|\n|--:|:-:|\n|1|2.5|"})
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.goto(model_page(ids.model))
    number = page.get_by_role("region", name="README").get_by_role("cell", name="1")
    assert number.evaluate("cell => getComputedStyle(cell).textAlign") == "right"
