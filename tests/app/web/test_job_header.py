"""What the top of a job's page answers at a glance, running and ended."""

import re
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import update

from app.jobs import claims
from app.jobs.events import NewEvent
from app.models import Job, JobStatus
from app.models.evaluation import Verdict
from app.models.job_verdict import JobVerdict
from app.web import job_header
from falqon_core.contract.health import HealthFinding
from tests.browser import scene
from tests.support.api import Tenant

NOTHING = "\N{EN DASH}"


def header(browser: httpx.Client, job_id: str) -> str:
    """As it is read: without tags, in single spaces."""
    page = browser.get(f"/jobs/{job_id}").text
    part = page[page.index('id="job-progress"') :].partition("</section>")[0]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", part.partition(">")[2]))


def evaluated(step: int, loss: float) -> NewEvent:
    return NewEvent("", type="metrics", data={"step": step, "valid_loss": loss})


def test_a_running_job_tells_whether_it_learns_when_it_ends_and_what_it_costs(
    browser: httpx.Client, tenant: Tenant
) -> None:
    claim = scene.job(tenant, tenant.upload(), "glance", 100)
    later = [evaluated(100, 0.125), evaluated(110, 0.25)]
    scene.write(tenant, claim, later, scene.progress(110))
    text = header(browser, claim.job_id)
    assert "Best validation loss 0.125 at step 100, 0.25 at the last evaluation" in text
    assert re.search(r"Finishes \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC in \S+ ", text)
    assert "92 %, step 110 of 120" in text
    assert re.search(r"Cost \$\S+ est\. total (&lt; )?\$\S+", text)
    assert "budget" not in text
    assert re.search(r"Started [\d: -]+ UTC Queue time [^A-Z]+ s ", text)


def test_findings_on_health_stand_on_top_and_color_the_end(
    browser: httpx.Client, tenant: Tenant
) -> None:
    claim = scene.job(tenant, tenant.upload(), "flat", 100)
    findings = [
        HealthFinding(code="overfitting", step=40, before=1.0, now=1.25),
        HealthFinding(code="not_learning", step=100, before=2.0, now=2.0),
    ]
    progress = scene.progress(100).model_copy(update={"health": findings})
    scene.write(tenant, claim, [], progress)
    text = header(browser, claim.job_id)
    first, second = text.index("The training loss has not fallen"), text.index("Overfitting since")
    assert first < second, "the worse one comes first"
    assert "and is 1.25 now. The model of step 40 is the one handed out" in text
    assert "no better" not in browser.get("/").text
    with tenant.api.database.transaction() as session:
        assert claims.finish(session, claim, JobStatus.SUCCEEDED, NewEvent("done"))
    for page in (f"/jobs/{claim.job_id}", "/"):
        assert 'data-status="no-better"' in browser.get(page).text


def test_a_model_that_answers_worse_than_its_base_colors_the_end(
    browser: httpx.Client, tenant: Tenant
) -> None:
    claim = scene.job(tenant, tenant.upload(), "worse", 100)
    scene.write(tenant, claim, [], scene.progress(100))
    with tenant.api.database.transaction() as session:
        assert claims.finish(session, claim, JobStatus.SUCCEEDED, NewEvent("done"))
    verdict: Verdict
    for verdict, is_worse in (("no_clear_difference", False), ("worse", True)):
        judged = JobVerdict(evaluation_id="e", verdict=verdict, sentence="Judged.", short="judged")
        with tenant.api.database.transaction() as session:
            session.execute(update(Job).where(Job.id == claim.job_id).values(verdict=judged))
        for page in (f"/jobs/{claim.job_id}", "/"):
            assert ('data-status="no-better"' in browser.get(page).text) == is_worse


def test_the_validation_loss_before_training_stands_beside_the_others(
    browser: httpx.Client, tenant: Tenant
) -> None:
    claim = scene.job(tenant, tenant.upload(), "before", 100)
    progress = scene.progress(100).model_copy(update={"untouched_valid_loss": 0.9})
    scene.write(tenant, claim, [], progress)
    assert re.search(r"Before training 0\.9 \(?validation loss", header(browser, claim.job_id))


def test_the_way_out_of_a_finding_depends_on_whether_the_job_has_ended(
    browser: httpx.Client, tenant: Tenant
) -> None:
    claim = scene.job(tenant, tenant.upload(), "risen", 100)
    risen = HealthFinding(code="diverging", step=100, before=0.5, now=0.9, is_below_start=True)
    scene.write(tenant, claim, [], scene.progress(100).model_copy(update={"health": [risen]}))
    assert "Cancel it and try a third" in header(browser, claim.job_id)
    with tenant.api.database.transaction() as session:
        assert claims.finish(session, claim, JobStatus.SUCCEEDED, NewEvent("done"))
    assert "Train it again at a third of the learning rate." in header(browser, claim.job_id)
    assert "no-better" not in browser.get(f"/jobs/{claim.job_id}").text


def test_evaluations_of_steps_that_are_done_again_do_not_count(
    browser: httpx.Client, tenant: Tenant
) -> None:
    first = scene.job(tenant, tenant.upload(), "again", 30)
    scene.write(tenant, first, [evaluated(40, 0.01)], scene.progress(40))
    with tenant.api.database.transaction() as session:
        lost = NewEvent("The worker was lost")
        claims.release(session, first, lost, counts_as_failure=False, max_infra_failures=1)
    second = tenant.claim(first.job_id)
    with tenant.api.database.transaction() as session:
        claims.update_attempt(session, second, start_step=30)
    assert "at step 30" in header(browser, first.job_id)


def test_the_budget_is_a_bar_and_says_when_it_ends_the_job(
    browser: httpx.Client, tenant: Tenant
) -> None:
    budget = {"max_cost_usd": "100", "max_seconds": 40}
    claim = tenant.claim(tenant.job(extra_body={"falqon": {"budget": budget}}).id)
    scene.write(tenant, claim, scene.drafts(50), scene.progress(50))
    text = header(browser, claim.job_id)
    assert "of $100.00 budget" in text
    assert "30 s of 40 s budget; the job pauses there before its end" in text
    assert text.count("pauses there") == 1


def test_an_ended_job_says_when_and_shows_nothing_empty(
    browser: httpx.Client, tenant: Tenant
) -> None:
    objects = scene.scene(tenant)
    text = header(browser, objects.succeeded)
    assert re.search(r"Ended [\d: -]+ UTC", text)
    assert ("step 120 of 120" in text, "estimate &lt;" in text) == (True, True)
    for gone in ("Finishes", "Time left", "est. total", NOTHING):
        assert gone not in text
    assert re.search(r"in the queue\. (It|No) ", header(browser, objects.queued))
    tenant.client.fine_tuning.jobs.cancel(objects.queued)
    text = header(browser, objects.queued)
    assert ("no steps" in text, "Speed" in text, NOTHING in text) == (True, False, False)


def test_a_job_names_its_files_and_who_asked(browser: httpx.Client, tenant: Tenant) -> None:
    file = tenant.upload()
    job = tenant.job(training_file=file, validation_file=file)
    page = browser.get(f"/jobs/{job.id}").text
    assert page.count(f'<a href="/data/{file}">rows.jsonl</a>') == 3
    assert f"<code>{file}</code>" not in page
    key = tenant.http.get("/v1/fine_tuning/jobs/" + job.id).json()["api_key_id"]
    assert key is not None
    assert re.search(r"Created by \S+", header(browser, job.id))


def test_a_failed_job_says_why_in_words_with_the_lines_at_fault(
    browser: httpx.Client, tenant: Tenant
) -> None:
    good = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
    bad = "".join(f'{{"messages": {line}}}\n' for line in range(7))
    file = tenant.upload(f"{good}\n{bad}".encode(), check=False)
    job_id = tenant.job(training_file=file).id
    tenant.check(file)
    text = header(browser, job_id)
    assert "The training file rows.jsonl is not valid." in text
    assert re.findall(r"Line (\d)", text) == ["2", "3", "4", "5", "6"]
    assert "2 more" in text
    page = browser.get(f"/jobs/{job_id}").text
    assert f'href="/data/{file}#errors-title"' in page
    assert f'class="button primary" href="/jobs/new?like={job_id}">Fix and run again' in page
    for part in ("evaluations", "samples", "attempts", "checkpoints", "cost"):
        assert re.search(rf'<section id="job-{part}"[^>]* hidden>', page), part


def test_the_wait_of_a_job_ends_at_its_first_attempt(browser: httpx.Client, tenant: Tenant) -> None:
    claim = tenant.claim(tenant.job().id)
    with tenant.api.database.transaction() as session:
        row = session.get_one(Job, claim.job_id)
        later = row.created_at + timedelta(seconds=75)
        session.execute(update(Job).where(Job.id == row.id).values(started_at=later))
    assert "Queue time 1 min 15 s" in header(browser, claim.job_id)


@pytest.mark.parametrize(("number", "num_drawn"), [(1, 2), (64, 64), (65, 33), (1000, 64)])
def test_a_sparkline_has_a_bounded_number_of_points_and_its_last(
    number: int, num_drawn: int
) -> None:
    losses = [(step, float(number - step)) for step in range(1, number + 1)]
    learning = job_header.learning_of([], losses)
    assert learning is not None
    drawn = learning.validation.split()
    assert (len(drawn), learning.last, learning.best) == (num_drawn, 0.0, (number, 0.0))
    assert drawn[-1] == f"{job_header.WIDTH:.1f},{job_header.HEIGHT:.1f}"


def test_a_range_that_is_one_amount_says_it_once(browser: httpx.Client, tenant: Tenant) -> None:
    page = browser.get(f"/jobs/{scene.scene(tenant).failed}").text
    (estimated,) = re.findall(r'<th scope="row">Range</th><td class="number">([^<]+)</td>', page)
    assert estimated == "&lt; $0.01"
