"""A model that judges answers decides a switch: one here, or one of the operator's own."""

from typing import Any

from app.base.ids import new_id
from app.models import Scope
from tests.app.switches.conftest import ask, make_result, models_of, put, read
from tests.support.api import Tenant
from worker.operations.evaluation import EvaluationHandler

MESSAGES = [
    {"role": "system", "content": "Grade the answer to: {{item.messages.0.content}}"},
    {"role": "user", "content": "<{{sample.output_text}}>, expected: {{item.reference}}"},
]


def judged_by(model: str) -> dict[str, Any]:
    kind = {"type": "score_model", "name": "judged", "model": model}
    return kind | {"input": MESSAGES, "range": [1, 5]}


def test_a_judge_here_or_of_the_operator_decides(
    tenant: Tenant, handler: EvaluationHandler
) -> None:
    here = new_id("judge-")
    tenant.add_model(here, project_id=tenant.project_id)
    old, bad = make_result(tenant).model, make_result(tenant, "bad").model
    put(tenant, "support", old)
    half = {
        "type": "multi",
        "name": "half",
        "graders": {"judged": judged_by("external-judge")},
        "calculate_output": "judged / 2",
    }
    for grader, means in ((judged_by(here), "0.00 against 1.00"), (half, "0.00 against 0.50")):
        switch_id = ask(tenant, "support", model=bad, graders=[grader])
        handler.poll()
        assert means in read(tenant, "support", switch_id)["reason"]
    assert models_of(tenant, "support") == {old: 1}


def test_a_judge_that_gives_no_score_decides_nothing(
    tenant: Tenant, handler: EvaluationHandler
) -> None:
    put(tenant, "support", tenant.base_model)
    new = make_result(tenant).model
    switch_id = ask(tenant, "support", model=new, graders=[judged_by("external-bad")])
    handler.poll()
    reason = read(tenant, "support", switch_id)["reason"]
    assert "external-bad gave no score for 'judged': 'nonsense'" in reason


def test_an_agent_asks_no_judge_of_the_operator(tenant: Tenant) -> None:
    path = f"/v1/fine_tuning/jobs/{make_result(tenant).job_id}/evaluations"
    headers = {"authorization": f"Bearer {tenant.new_key(Scope.AGENT)}"}
    body = {"graders": [judged_by("external-judge")]}
    answer = tenant.http.post(path, json=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (403, "graders")
    body = {"graders": [judged_by("external-judge") | {"name": str(n)} for n in range(3)]}
    answer = tenant.http.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "graders")


def test_a_judge_must_be_known(tenant: Tenant) -> None:
    put(tenant, "support", tenant.base_model)
    body = {"model": make_result(tenant).model, "graders": [judged_by("gpt-9")]}
    answer = tenant.http.post("/v1/aliases/support/switches", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "judge_not_found")
    assert "external-judge, external-bad" in answer.json()["error"]["message"]
