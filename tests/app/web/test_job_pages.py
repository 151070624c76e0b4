import hashlib
import json
import re
import time
from csv import DictReader

import httpx
import pytest
from sqlalchemy import insert, update

from app.auth.caller import Caller
from app.base.database import now_plus
from app.base.ids import new_id
from app.jobs import claims
from app.jobs.events import NewEvent
from app.models import ApiKey, Attempt, Event, Job, JobStatus, Scope
from app.models.trainer_log import TAIL_BYTES, TrainerLog
from app.web.job_table import TableQuery
from app.web.pages.job import MAX_LOG_CHARACTERS
from app.web.pages.jobs import table_context
from app.web.rendering import fragment
from tests.browser import scene
from tests.support.api import Api, Tenant
from tests.support.pages import SAME_SITE, token

ACTIONS = ["cancel", "pause", "resume", "clone", "delete"]


def test_lists_of_job_ids_in_a_query_show_no_job_of_another_project(
    browser: httpx.Client, tenant: Tenant
) -> None:
    own, foreign = tenant.job().id, scene.scene(Tenant(tenant.api)).succeeded
    assert browser.get(f"/compare?job={own}&job={foreign}").status_code == 404
    endings = browser.get(f"/jobs/ended?job={own}&job={foreign}").json()
    assert endings == {"ended": [], "live": [own]}


def test_a_reader_is_offered_no_job_action_and_changes_nothing(api: Api, tenant: Tenant) -> None:
    job_id = tenant.job().id
    with httpx.Client(base_url=api.url, follow_redirects=True, verify=False) as browser:
        browser.post("/sign-in", data={"key": tenant.new_key(Scope.READ)}, headers=SAME_SITE)
        page = browser.get(f"/jobs/{job_id}")
        assert f'action="/jobs/{job_id}/' not in page.text + browser.get("/").text
        for action in ACTIONS:
            answer = browser.post(
                f"/jobs/{job_id}/{action}", data={"csrf": token(page)}, headers=SAME_SITE
            )
            assert (answer.status_code, "needs an API key with the right" in answer.text) == (
                403,
                True,
            )
    assert tenant.client.fine_tuning.jobs.retrieve(job_id).status == "queued"


def test_the_log_of_a_trainer_that_failed_stands_with_its_attempt(
    browser: httpx.Client, tenant: Tenant
) -> None:
    claim = scene.job(tenant, tenant.upload(), "logged", 2)
    lost = NewEvent("It was lost", data={"code": "internal_error", "trainer_log": "KeyError <b>"})
    with tenant.api.database.transaction() as session:
        claims.release(session, claim, lost, counts_as_failure=False, max_infra_failures=1)
    attempts = browser.get(f"/jobs/{claim.job_id}").text.partition('id="job-attempts"')[2]
    assert "KeyError &lt;b&gt;" in attempts.partition("</section>")[0]


def test_an_attempt_that_has_done_no_step_says_so(browser: httpx.Client, tenant: Tenant) -> None:
    claim = tenant.claim(tenant.job().id)
    with tenant.api.database.transaction() as session:
        claims.update_attempt(session, claim, start_step=0)
    attempts = browser.get(f"/jobs/{claim.job_id}").text.partition('id="job-attempts"')[2]
    assert "No step done" in attempts.partition("</section>")[0]


def test_the_log_of_a_trainer_is_a_panel_of_its_own(browser: httpx.Client, tenant: Tenant) -> None:
    claim = scene.job(tenant, tenant.upload(), "writes", 2)
    url = f"/jobs/{claim.job_id}"
    assert "Trainer log" not in browser.get(url).text
    assert browser.get(f"{url}/log").status_code == 404
    text = "".join(f"<script>alert({number})</script>\n" for number in range(10_000))
    lines = text[: TAIL_BYTES // 4]
    tenant.store_log(claim, TrainerLog(tail=lines + "the end\n"))
    assert "Trainer log" in browser.get(url).text
    part = browser.get(f"{url}/log").text
    assert "<script>" not in part
    assert "\n&lt;script&gt;alert(9" in part
    assert "the end\n</pre>" in part
    assert len(part) < 4 * MAX_LOG_CHARACTERS
    assert browser.get(f"{url}/log?attempt=1&after={len(lines) + 8}").status_code == 204
    download = browser.get(f"{url}/log?attempt=1&format=text")
    assert (download.text, download.headers["x-content-type-options"]) == (
        f"{lines}the end\n",
        "nosniff",
    )
    assert download.headers["content-disposition"].startswith("attachment")
    scene.finish(tenant, claim, JobStatus.CANCELLED)
    assert "hx-trigger" in part
    assert "hx-trigger" not in browser.get(f"{url}/log?after={len(lines) + 8}").text


def test_an_action_refused_in_the_jobs_state_is_explained_on_the_page(
    browser: httpx.Client, tenant: Tenant
) -> None:
    job_id = tenant.job().id
    csrf = token(browser.get("/"))
    page = browser.post(f"/jobs/{job_id}/resume", data={"csrf": csrf}, headers=SAME_SITE)
    assert "only a paused job can be resumed" in page.text
    assert "only a paused job" not in browser.get(f"/jobs/{job_id}").text  # once
    page = browser.post(f"/jobs/{job_id}/delete", data={"csrf": csrf}, headers=SAME_SITE)
    assert "cancel it before you delete it" in page.text


def test_an_action_on_a_job_that_has_not_begun_reports_its_effect(
    browser: httpx.Client, tenant: Tenant
) -> None:
    running = tenant.claim(tenant.job().id).job_id
    assert "It stops at its next step" in browser.get(f"/jobs/{running}").text
    waiting = tenant.job().id
    page = browser.get(f"/jobs/{waiting}").text
    assert "Nothing has been spent on it." in page
    assert "It stops at its next step" not in page
    tenant.client.fine_tuning.jobs.pause(waiting)
    assert "It begins as soon as a worker is free" in browser.get(f"/jobs/{waiting}").text


def test_a_job_whose_budget_is_used_up_is_resumed_with_a_higher_one(
    browser: httpx.Client, tenant: Tenant
) -> None:
    job_id = tenant.job(extra_body={"falqon": {"budget": {"max_seconds": 10}}}).id
    tenant.client.fine_tuning.jobs.pause(job_id)
    with tenant.api.database.transaction() as session:
        session.execute(
            update(Job)
            .where(Job.id == job_id)
            .values(execution_seconds=11.0, paused_reason="budget")
        )
    page = browser.get(f"/jobs/{job_id}")
    assert 'name="max_seconds" inputmode="numeric" value="10"' in page.text
    notice = re.sub(r"\s+", " ", page.text)
    assert "the time budget of 10 s is used up (11 s, all of it start-up). Raise it" in notice
    assert "It goes on when you resume it" not in notice

    def resume(seconds: str) -> str:
        form = {"csrf": token(page), "has_caps": "true", "max_cost_usd": "", "max_seconds": seconds}
        return browser.post(f"/jobs/{job_id}/resume", data=form, headers=SAME_SITE).text

    assert "Enter a higher cap, or leave the field empty" in resume("10")
    refused = resume("ten")
    assert "seconds as a whole number" in refused
    assert 'name="max_seconds" inputmode="numeric" value="ten"' in refused
    assert "Job resumed" in resume("20")
    assert "Budget: at most 20 s." in browser.get(f"/jobs/{job_id}").text
    assert tenant.client.fine_tuning.jobs.retrieve(job_id).budget["max_seconds"] == 20  # type: ignore[attr-defined]
    tenant.client.fine_tuning.jobs.pause(job_id)
    assert "Job resumed" in resume("")
    assert "Budget:" not in browser.get(f"/jobs/{job_id}").text


def test_a_job_that_succeeded_offers_its_model(browser: httpx.Client, tenant: Tenant) -> None:
    job_id = scene.scene(tenant).succeeded
    model = tenant.client.fine_tuning.jobs.retrieve(job_id).fine_tuned_model
    page = browser.get(f"/jobs/{job_id}").text
    for text in (
        f"falqon download {model}",
        "vllm serve ./ft-",
        "hf download ft/",
        hashlib.sha256(b"bytes").hexdigest(),
        f"/v1/models/{model}/artifacts/",
    ):
        assert text in page
    answer = browser.get(f"/jobs/{job_id}/artifacts/model.safetensors")
    assert (answer.content, answer.headers["etag"]) == (
        b"bytes",
        f'"{hashlib.sha256(b"bytes").hexdigest()}"',
    )
    assert answer.headers["content-disposition"].startswith("attachment")
    assert browser.get(f"/jobs/{job_id}/artifacts/nothing").status_code == 404
    tenant.client.models.delete(model or "")
    assert "vllm serve" not in browser.get(f"/jobs/{job_id}").text
    assert browser.get(f"/jobs/{job_id}/artifacts/model.safetensors").status_code == 404


def test_charts_get_the_numbers_of_the_api_and_people_get_them_as_csv(
    browser: httpx.Client, tenant: Tenant
) -> None:
    jobs = scene.scene(tenant)
    job_id = jobs.running
    assert browser.get(f"/jobs/{jobs.failed}/metrics").json()["has_ended"] is True
    drawn = browser.get(f"/jobs/{job_id}/metrics").json()
    assert drawn["has_ended"] is False
    ours = drawn["series"]
    answer = tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}/metrics", params={"points": 2000})
    theirs = answer.json()["series"]
    assert ours.keys() == theirs.keys()
    for key, series in ours.items():
        assert series["steps"] == theirs[key]["steps"]
        assert series["values"] == pytest.approx(theirs[key]["values"], rel=1e-5)
    dollars = ours["cost_accrued"]
    assert (dollars["steps"][:2], dollars["values"][:2]) == ([1, 2], [0.0001, 0.0002])
    csv = browser.get(f"/jobs/{job_id}/metrics?format=csv")
    assert csv.headers["content-disposition"] == f'attachment; filename="{job_id}-metrics.csv"'
    rows = list(DictReader(csv.text.splitlines()))
    assert [int(row["step"]) for row in rows] == list(range(1, 81))
    assert [float(row["train_loss"]) for row in rows] == theirs["train_loss"]["values"]
    assert {row["step"]: row["valid_loss"] for row in rows if row["valid_loss"]}.keys() == {
        "30",
        "60",
    }


def messages(browser: httpx.Client, path: str, **headers: str) -> list[dict[str, str]]:
    """Of a stream, up to its end."""
    received: list[dict[str, str]] = [{}]
    with browser.stream("GET", path, headers=headers) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            name, _, value = line.partition(": ")
            if name:
                received[-1][name] = (
                    received[-1][name] + "\n" + value if name in received[-1] else value
                )
            else:
                received.append({})
    return [message for message in received if message]


def test_the_stream_brings_what_is_missing_and_ends_with_the_job(
    browser: httpx.Client, tenant: Tenant
) -> None:
    job_id = scene.scene(tenant).succeeded
    with tenant.api.database.read() as session:
        last = session.get_one(Job, job_id).last_event_seq
    steps = [
        event["data"]
        for event in messages(browser, f"/jobs/{job_id}/live")
        if event.get("event") == "metrics"
    ]
    trained = [
        point["step"] for points in steps for point in json.loads(points) if "train_loss" in point
    ]
    assert trained == list(range(1, scene.STEPS + 1))
    by_query = messages(browser, f"/jobs/{job_id}/live?after={last - 1}")
    remembered = messages(browser, f"/jobs/{job_id}/live", **{"last-event-id": str(last - 1)})
    for stream in (by_query, remembered):
        html, ended = stream
        assert html["id"] == str(last)
        assert re.findall(r'hx-target="#([^"]+)"', html["data"])[-1] == "events"
        assert html["data"].count("<li id=") == 1
        assert ended["event"] == "ended"
    assert messages(browser, f"/jobs/{job_id}/live?after={last}")[-1]["event"] == "ended"
    assert b"\r" not in browser.get(f"/jobs/{job_id}/live").content, "htmx takes it for an end"
    assert browser.get(f"/jobs/{job_id}/live?after=x").status_code == 400


def test_streams_end_with_the_key(browser: httpx.Client, tenant: Tenant) -> None:
    job_id = tenant.job().id
    for path in ("/live", f"/jobs/{job_id}/live", "/workers/live"):
        assert httpx.get(f"{tenant.api.url}{path}", verify=False).status_code == 401
    with browser.stream("GET", "/live") as stream:
        lines = stream.iter_lines()
        assert f"row-{job_id}" in next(line for line in lines if "row-" in line)
        with tenant.api.database.transaction() as session:
            session.execute(
                update(ApiKey)
                .where(ApiKey.project_id == tenant.project_id)
                .values(revoked_at=now_plus())
            )
        list(lines)


def test_a_comparison_shows_curves_and_settings_of_its_jobs(
    browser: httpx.Client, tenant: Tenant
) -> None:
    file = tenant.upload()
    first = tenant.job(training_file=file, suffix="one", extra_body={"falqon": {"rank": 16}}).id
    second = tenant.job(training_file=file, suffix="two", extra_body={"falqon": {"rank": 32}}).id
    page = browser.get(f"/compare?job={first}&job={second}").text
    different, same = page.partition("Same settings</summary>")[::2]
    titles = re.findall(r'<th scope="row">([^<]+)</th>', different)
    assert titles[:2] == ["Adapter rank", "Adapter scaling (alpha)"]
    assert "Learning rate" in same
    assert "rows.jsonl" in same
    assert page.index("What differs") < page.index("Training</h2>")
    assert "Paper" not in page
    assert "Choose at least one more" in browser.get(f"/compare?job={first}&job={first}").text
    seven = "&".join(f"job={tenant.job(training_file=file).id}" for _ in range(7))
    assert "at most 6," in browser.get(f"/compare?{seven}").text


def test_jobs_chosen_to_compare_stay_beside_the_results_of_a_search(
    browser: httpx.Client, tenant: Tenant
) -> None:
    file = tenant.upload()
    chosen = tenant.job(training_file=file, suffix="old").id
    tenant.job(training_file=file, suffix="new")
    page = browser.get(f"/compare?choose=1&q=new&job={chosen}&job=ftjob-gone").text
    boxes = re.findall(r'name="job" value="([^"]+)"( checked)?>', page)
    assert boxes[0] == (chosen, " checked")
    assert [checked for _, checked in boxes[1:]] == [""]


@pytest.mark.parametrize(
    "query", ["sort=nothing", "status=nothing", "page=0", "page=x", f"q={'x' * 257}", "q=%00"]
)
def test_a_bad_query_is_a_page_that_says_so(browser: httpx.Client, query: str) -> None:
    page = browser.get(f"/?{query}")
    assert page.status_code == 400
    assert 'role="alert"' in page.text
    assert page.headers["content-type"].startswith("text/html")


def test_a_thousand_jobs_cost_the_first_page_little_more_than_fifty(
    api: Api, tenant: Tenant
) -> None:
    """Both in one run and of this thread's own time: how fast the machine is does not count."""
    template = tenant.job()
    caller = Caller("key", tenant.project_id, Scope.WRITE, None, False)

    def add(number: int) -> None:
        with api.database.transaction() as session:
            columns = {
                attribute.key: getattr(session.get_one(Job, template.id), attribute.key)
                for attribute in Job.__mapper__.column_attrs
            }
            ids = [new_id("ftjob-") for _ in range(number)]
            ended = {
                "status": JobStatus.SUCCEEDED,
                "attempt": 1,
                "last_event_seq": 100,
                "progress": scene.progress(100),
            }
            session.execute(insert(Job), [columns | ended | {"id": id_} for id_ in ids])
            row = {"number": 1, "worker": "w", "device": "cpu", "num_devices": 2}
            session.execute(insert(Attempt), [row | {"job_id": id_} for id_ in ids])
            drafts = [
                NewEvent("", type="metrics", data=scene.metrics(step, 1.0))._asdict()
                | {"seq": step, "attempt": 1}
                for step in range(1, 101)
            ]
            session.execute(
                insert(Event), [draft | {"job_id": id_} for id_ in ids[-50:] for draft in drafts]
            )

    def first_paint(num_pages: int) -> float:
        began = time.thread_time()
        with api.database.read() as session:
            context = table_context(session, api.app.state.services, caller, TableQuery())
            html = fragment("jobs/list.html", caller=caller, may_write=True, csrf="x", **context)
        seconds = time.thread_time() - began
        assert html.count('class="spark"') == 50
        assert f"Page 1 of {num_pages}" in html
        return seconds

    add(50)
    first_paint(2)  # templates and statements are compiled once
    of_fifty = min(first_paint(2) for _ in range(5))
    add(950)
    assert min(first_paint(21) for _ in range(5)) < 2 * of_fifty


def test_a_job_gets_a_title_and_a_note_and_its_model_keeps_its_name(
    browser: httpx.Client, tenant: Tenant
) -> None:
    job = tenant.job(suffix="desk", metadata={"team": "red"})
    form = {"csrf": token(browser.get(f"/jobs/{job.id}"))}
    texts = {"title": " Tone <b> ", "note": "Too formal.\r\nAgain?"}
    page = browser.post(f"/jobs/{job.id}/edit", data=form | texts, headers=SAME_SITE).text
    assert "<h1>Tone &lt;b&gt;</h1>" in page
    assert '<p class="text note">Too formal.\nAgain?</p>' in page
    metadata = {"team": "red", "title": "Tone <b>", "note": "Too formal.\nAgain?"}
    changed = tenant.client.fine_tuning.jobs.retrieve(job.id)
    assert (changed.metadata, changed.suffix) == (metadata, "desk")
    for path in ("/", "/?q=tone", "/?sort=name", "/search?q=tone"):
        assert ">Tone &lt;b&gt;<" in browser.get(path).text, path
    assert "desk" not in re.findall(r"<title>.*</title>", browser.get(f"/jobs/{job.id}").text)[0]
    long = {"title": "", "note": "x" * 513}
    refused = browser.post(f"/jobs/{job.id}/edit", data=form | long, headers=SAME_SITE).text
    assert "512" in re.findall(r'<p class="notice" role="status"[^>]*>([^<]*)', refused)[0]
    assert "<h1>Tone &lt;b&gt;</h1>" in refused, "nothing of it is written"
    empty = {"title": "", "note": ""}
    assert (
        "<h1>desk</h1>"
        in browser.post(f"/jobs/{job.id}/edit", data=form | empty, headers=SAME_SITE).text
    )
    assert tenant.client.fine_tuning.jobs.retrieve(job.id).metadata == {"team": "red"}
