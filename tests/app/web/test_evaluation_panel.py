"""The table of a job's page that says whether its model is better than its base."""

from typing import Any

import httpx

from app.base.ids import new_id
from app.models import Evaluation, OperationStatus
from app.models.evaluation import EvaluatedModel, EvaluationPlan, EvaluationResult
from app.models.graders import StringCheck
from tests.support.api import Tenant

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
    assert f"once the job has succeeded: <code>falqon evaluate {job_id}" in page
    scores = [score(0.5), score(0.3, "worse"), score(0.9, "better")]
    models = [
        model.model_dump() | {"scores": [row]} for model, row in zip(MODELS, scores, strict=True)
    ]
    result = EvaluationResult.model_validate({"rows": 7, "rows_left_out": 2, "models": models})
    add(tenant, job_id, status=OperationStatus.COMPLETED, num_rows=9, num_answers=27, result=result)
    page = browser.get(f"/jobs/{job_id}").text
    for words in (
        "27 of 27 answers",
        "&lt;same&gt;",
        "step 40",
        "0.300 ± 0.020",
        "-0.200 ± 0.010",
        '<strong class="error">worse than base</strong> <span class="faint">(p = 0.004)',
        "better than base",
        "7 rows, 2 left out",
    ):
        assert words in page


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
