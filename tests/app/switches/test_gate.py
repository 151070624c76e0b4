"""A name moves to a new model only if an evaluation finds that not worse than what it had."""

from collections.abc import Callable

import openai
import pytest
from sqlalchemy import select

from app.aliases import repository as alias_rows
from app.jobs import repository as job_rows
from app.models import AuditLog, Evaluation, Job
from app.models.switch_options import SwitchOptions
from app.switches import gate, watch
from tests.app.switches.conftest import (
    Result,
    ask,
    deliveries_of,
    events_of,
    make_result,
    models_of,
    put,
    read,
    subscribe,
)
from tests.support.api import Api, Tenant
from tests.support.model_engine import rows
from worker.operations.evaluation import EvaluationHandler


def audited(tenant: Tenant, name: str) -> list[str]:
    statement = select(AuditLog).where(
        AuditLog.project_id == tenant.project_id, AuditLog.resource_id == name
    )
    with tenant.api.database.read() as session:
        rows = session.scalars(statement.order_by(AuditLog.id)).all()
    assert {row.key_id.removeprefix("key_") in tenant.key for row in rows} == {True}
    return [row.event_type for row in rows]


def test_a_model_that_is_not_worse_takes_the_name_over_and_one_call_goes_back(
    tenant: Tenant, handler: EvaluationHandler
) -> None:
    endpoint_id = subscribe(tenant)
    old, new = make_result(tenant).model, make_result(tenant)
    put(tenant, "support", old)
    switch_id = ask(tenant, "support", model=new.model)
    waiting = read(tenant, "support", switch_id)
    assert (waiting["status"], waiting["reason"]) == ("evaluating", None)
    assert models_of(tenant, "support") == {old: 1}
    handler.poll()

    done = read(tenant, "support", switch_id)
    assert (done["status"], done["fine_tuning_job_id"]) == ("switched", new.job_id)
    words = f"{old}: 1.00 against 1.00 by same (24 rows, p = 1.000)"
    assert done["reason"] == f"the new model is not worse than {words}"
    assert models_of(tenant, "support") == {new.model: 1}
    newest, first = tenant.http.get("/v1/aliases/support/versions").json()["data"]
    assert (newest["switch"], first["switch"]) == (switch_id, None)
    evaluation = tenant.http.get(
        f"/v1/fine_tuning/jobs/{new.job_id}/evaluations/{done['evaluation']}"
    ).json()
    assert evaluation["models"] == [tenant.base_model, old, new.model]
    event = events_of(tenant, new.job_id)[0]
    assert event["message"] == f"'support' stands for {new.model}: {done['reason']}."
    assert event["data"]["event"] == "switch.switched"
    assert deliveries_of(tenant, endpoint_id) == ["switched"]
    changes = ["alias.updated", "alias.switch_created", "alias.switch_switched"]
    assert audited(tenant, "support") == changes

    tenant.http.post("/v1/aliases/support/rollback").raise_for_status()
    assert models_of(tenant, "support") == {old: 1}


def test_a_worse_model_leaves_the_name(tenant: Tenant, handler: EvaluationHandler) -> None:
    endpoint_id = subscribe(tenant)
    old, bad = make_result(tenant).model, make_result(tenant, "bad")
    put(tenant, "support", old)
    switch_id = ask(tenant, "support", model=bad.model)
    handler.poll()
    kept = read(tenant, "support", switch_id)
    words = f"{old}: 0.00 against 1.00 by same (24 rows, p < 0.001)"
    assert (kept["status"], kept["reason"]) == ("kept", f"the new model is worse than {words}")
    assert models_of(tenant, "support") == {old: 1}
    event = events_of(tenant, bad.job_id)[0]
    assert (event["level"], event["data"]["event"]) == ("warn", "switch.kept")
    assert deliveries_of(tenant, endpoint_id) == ["kept"]
    (newest,) = tenant.http.get("/v1/aliases/support/switches").json()["data"]
    assert newest == kept


def change_the_name(tenant: Tenant, _new: Result) -> None:
    put(tenant, "support", tenant.base_model, make_result(tenant).model)


def delete_the_name(tenant: Tenant, _new: Result) -> None:
    tenant.http.delete("/v1/aliases/support").raise_for_status()


def delete_the_model(tenant: Tenant, new: Result) -> None:
    tenant.client.models.delete(new.model)


def delete_the_job(tenant: Tenant, new: Result) -> None:
    tenant.http.delete(f"/v1/fine_tuning/jobs/{new.job_id}").raise_for_status()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (change_the_name, "it was changed during the evaluation"),
        (delete_the_name, "it was changed during the evaluation"),
        (delete_the_model, "the evaluation has failed: A model has been deleted meanwhile"),
        (delete_the_job, "its evaluation has ended undecided, or was deleted with the job"),
    ],
)
def test_what_changes_during_the_evaluation_leaves_the_name(
    api: Api,
    tenant: Tenant,
    handler: EvaluationHandler,
    change: Callable[[Tenant, Result], None],
    reason: str,
) -> None:
    new = make_result(tenant)
    put(tenant, "support", tenant.base_model)
    switch_id = ask(tenant, "support", model=new.model)
    change(tenant, new)
    before = tenant.http.get("/v1/aliases/support/versions").json()
    handler.poll()
    watch.watch(api.database)
    assert tenant.http.get("/v1/aliases/support/versions").json() == before
    if change is delete_the_name:
        put(tenant, "support", tenant.base_model)  # a deleted name shows no switches
    kept = read(tenant, "support", switch_id)
    assert (kept["status"], kept["reason"]) == ("kept", reason)


def test_rows_that_are_too_few_or_tell_nothing_leave_the_name(
    tenant: Tenant, handler: EvaluationHandler
) -> None:
    put(tenant, "support", make_result(tenant, "bad").model)
    few = ask(tenant, "support", model=make_result(tenant, num_rows=19).model)
    handler.poll()
    reason = "19 rows cannot tell; at least 20 are needed"
    assert read(tenant, "support", few)["reason"] == reason
    graders = [{"type": "string_check", "name": "same", "operation": "eq", "reference": "?"}]
    blind = ask(tenant, "support", model=make_result(tenant).model, graders=graders)
    handler.poll()
    reason = "no grader gave any of the models anything, which tells nothing"
    assert read(tenant, "support", blind)["reason"] == reason


@pytest.mark.both_databases
def test_of_two_switches_at_once_the_first_wins(
    api: Api, tenant: Tenant, handler: EvaluationHandler
) -> None:
    """Two that began in the same moment, as two requests can."""
    put(tenant, "support", tenant.base_model)
    results = [make_result(tenant) for _ in range(2)]
    first = ask(tenant, "support", model=results[0].model)
    refused = tenant.http.post("/v1/aliases/support/switches", json={"model": results[1].model})
    assert refused.json()["error"]["code"] == "switch_in_progress"
    with api.database.transaction() as session:
        alias = alias_rows.find(session, tenant.project_id, "support")
        job = session.get_one(Job, results[1].job_id)
        evaluation = session.scalars(
            select(Evaluation).where(Evaluation.job_id == results[0].job_id)
        ).one()
        fields = ("project_id", "origin", "plan", "status")
        twin = Evaluation(
            id=f"{evaluation.id}-2",
            job_id=job.id,
            file_id=job.validation_file_id,
            **{field: getattr(evaluation, field) for field in fields},
        )
        session.add(twin)
        options = SwitchOptions(alias="support")
        second = gate.new_switch(job, options, alias, twin, None)
        session.add(second)
    handler.poll()
    ends = [read(tenant, "support", switch_id) for switch_id in (first, second.id)]
    assert [end["status"] for end in ends] == ["switched", "kept"]
    assert models_of(tenant, "support") == {results[0].model: 1}


def test_a_switch_that_could_change_nothing_is_refused(tenant: Tenant, api: Api) -> None:
    stranger = Tenant(api)
    new, theirs = make_result(tenant), make_result(stranger)
    put(tenant, "support", new.model)
    put(stranger, "theirs", stranger.base_model)
    for name, body, status, code in (
        ("support", {"model": new.model}, 400, "alias_is_switched"),
        ("theirs", {"model": new.model}, 404, "alias_not_found"),
        ("support", {"model": theirs.model}, 404, "model_not_found"),
        ("support", {"model": tenant.base_model}, 400, "model_of_no_job"),
        ("support", {"model": new.model, "canary": 51}, 400, "invalid_value"),
    ):
        answer = tenant.http.post(f"/v1/aliases/{name}/switches", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), body
    stranger.http.close()


def test_a_job_begins_its_switch_with_its_success(
    api: Api, tenant: Tenant, handler: EvaluationHandler
) -> None:
    old = make_result(tenant).model
    put(tenant, "support", old)
    options = {"switch": {"alias": "support", "canary": 5}}
    request = {"validation_file": tenant.upload(rows(24)), "extra_body": {"falqon": options}}
    for others, message in (
        ({"switch": {"alias": "none"}}, "no name 'none'"),
        (options | {"evaluate": False}, "the evaluation decides"),
        (options | {"find_rate": True}, "a range test has no model"),
    ):
        with pytest.raises(openai.BadRequestError, match=message):
            tenant.job(**request | {"extra_body": {"falqon": others}})
    job = tenant.job(**request)
    assert job.estimate["evaluation"]["num_rows"] == 24
    model = f"ft:tiny:acme:good:{job.id[-8:]}"
    tenant.add_model(model, project_id=tenant.project_id, base=tenant.base_model, job_id=job.id)
    with api.database.transaction() as session:
        row = job_rows.lock_in_any_project(session, job.id)
        assert row is not None
        row.fine_tuned_model_id, row.status = model, "succeeded"
        gate.begin(session, row)
    handler.poll()
    (switch,) = tenant.http.get("/v1/aliases/support/switches").json()["data"]
    assert (switch["status"], switch["model"], switch["canary"]) == ("canary", model, 5)
    assert models_of(tenant, "support") == {model: 1, old: 19}
