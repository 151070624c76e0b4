"""The table of a job's page that says whether its model is better than its base."""

import re
from typing import Any

import httpx
from sqlalchemy import update

from app.base.ids import new_id
from app.jobs import service as jobs
from app.models import Evaluation, Job, Model, OperationStatus, Scope
from app.models.evaluation import EvaluatedModel, EvaluationPlan, EvaluationResult
from app.models.graders import StringCheck
from app.models.job_verdict import JobVerdict
from tests.contract.access_objects import a_job_to_evaluate, an_ended_job
from tests.support.api import Tenant
from tests.support.pages import SAME_SITE, token

MODELS = [
    EvaluatedModel(model="base", role="base"),
    EvaluatedModel(model="ft:base:ckpt-step-40", role="checkpoint", step=40),
    EvaluatedModel(model="ft:base", role="result"),
]


def score(mean: float, verdict: str | None = None) -> dict[str, Any]:
    difference = None
    if verdict is not None:
        difference = {
            "mean": mean - 0.5,
            "standard_error": 0.01,
            "p_value": 0.004,
            "verdict": verdict,
        }
    return {"grader": "<same>", "mean": mean, "standard_error": 0.02, "difference": difference}


def add(tenant: Tenant, job_id: str, **columns: Any) -> None:
    grader = StringCheck(type="string_check", name="<same>", operation="eq")
    plan = EvaluationPlan(graders=[grader], models=MODELS, max_rows=9, max_tokens=9)
    with tenant.api.database.transaction() as session:
        session.add(
            Evaluation(
                id=new_id("eval-"),
                project_id=tenant.project_id,
                job_id=job_id,
                file_id="file-x",
                origin="validation_file",
                plan=plan,
                **columns,
            )
        )


def test_the_page_says_plainly_what_is_worse(browser: httpx.Client, tenant: Tenant) -> None:
    job_id = tenant.job().id
    page = browser.get(f"/jobs/{job_id}").text
    assert "can be compared with its base once the job has succeeded" in page
    scores = [score(0.5), score(0.3, "worse"), score(0.9, "better")]
    models = [
        model.model_dump() | {"scores": [row]} for model, row in zip(MODELS, scores, strict=True)
    ]
    example = {"line": 3, "prompt": "<b>", "expected": "<i>", "answer": "", "scores": [0.25]}
    result = EvaluationResult.model_validate(
        {"rows": 7, "rows_left_out": 2, "models": models}
        | {"best": [example], "worst": [example | {"line": 5, "answer": "<u>"}]}
    )
    add(tenant, job_id, status=OperationStatus.COMPLETED, num_rows=9, num_answers=27, result=result)
    page = browser.get(f"/jobs/{job_id}").text
    for words in (
        "27 of 27 answers",
        "Better than the base: 0.90 against 0.50 by &lt;same&gt; (7 rows, p = 0.004).",
        "&lt;same&gt;",
        "step 40",
        "0.300 ± 0.020",
        "-0.200 ± 0.010",
        '<strong class="error">worse than base</strong> <span class="faint">(p = 0.004)',
        "better than base",
        "7 rows, 2 left out",
        "Line 3 · &lt;same&gt; 0.25",
        '<p class="text said" data-role="user">&lt;b&gt;</p>',
        "(nothing)",
        "&lt;i&gt;",
        "&lt;u&gt;",
    ):
        assert words in page


def test_the_verdict_stands_wherever_jobs_and_models_are_compared(
    browser: httpx.Client, tenant: Tenant
) -> None:
    job_id, other_id = a_job_to_evaluate(tenant)["job_id"], tenant.job().id
    verdict = JobVerdict(
        evaluation_id="eval-x", verdict="better", sentence="Better <here>.", short="better <here>"
    )
    with tenant.api.database.transaction() as session:
        session.execute(update(Job).where(Job.id == job_id).values(verdict=verdict))
        model_id = session.get_one(Job, job_id).fine_tuned_model_id
        session.execute(update(Model).where(Model.id == model_id).values(job_id=job_id))
    short = '<span title="Better &lt;here&gt;.">better &lt;here&gt;</span>'
    for path in ("/", "/models"):
        assert short in browser.get(path).text, path
    compared = browser.get(f"/compare?job={job_id}&job={other_id}").text
    assert re.search(r"Against its base</th>\s*<td[^>]*>better &lt;here&gt;</td>", compared)
    for path in (f"/jobs/{job_id}", f"/models/{model_id}"):
        assert "Better &lt;here&gt;.</a>" in browser.get(path).text, path
    stranger = Tenant(tenant.api)
    with tenant.api.database.read() as session:
        assert jobs.verdicts(session, tenant.project_id, [job_id]) == {job_id: verdict}
        assert jobs.verdicts(session, stranger.project_id, [job_id]) == {}


def test_an_evaluation_of_an_ended_job_is_polled(browser: httpx.Client, tenant: Tenant) -> None:
    job_id = tenant.job().id
    tenant.client.fine_tuning.jobs.cancel(job_id)
    asks = 'hx-select="#job-evaluations"'
    assert asks not in browser.get(f"/jobs/{job_id}").text
    add(tenant, job_id, status=OperationStatus.IN_PROGRESS)
    assert asks in browser.get(f"/jobs/{job_id}").text


def test_a_failed_evaluation_shows_its_reason(browser: httpx.Client, tenant: Tenant) -> None:
    job_id = tenant.job().id
    failure = {"error_code": "engine_failed", "error_message": "The engine <has> ended."}
    add(tenant, job_id, status=OperationStatus.FAILED, **failure)
    assert "The engine &lt;has&gt; ended." in browser.get(f"/jobs/{job_id}").text


def test_a_button_asks_the_model_and_its_base(browser: httpx.Client, tenant: Tenant) -> None:
    job_id = an_ended_job(tenant)["job_id"]
    assert ">Evaluate" not in browser.get(f"/jobs/{job_id}").text
    job_id = a_job_to_evaluate(tenant)["job_id"]
    page = browser.get(f"/jobs/{job_id}")
    form = {"csrf": token(page)}
    answer = browser.post(f"/jobs/{job_id}/evaluations", data=form, headers=SAME_SITE)
    assert "A worker asks the model and its base" in answer.text
    assert ">Evaluate" not in answer.text, "one at a time"
    (evaluation,) = tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}/evaluations").json()["data"]
    assert [grader["name"] for grader in evaluation["graders"]] == ["same", "fuzzy_match"]
    assert evaluation["origin"] == "validation_file"


def test_a_reader_is_offered_no_evaluation(browser: httpx.Client, tenant: Tenant) -> None:
    job_id = a_job_to_evaluate(tenant)["job_id"]
    browser.post("/sign-in", data={"key": tenant.new_key(Scope.READ)}, headers=SAME_SITE)
    page = browser.get(f"/jobs/{job_id}").text
    assert "have not answered the held-out rows yet" in page
    assert '/evaluations"' not in page
