"""The two ways in which a fine-tuned model answers, as a client chooses them."""

from typing import Any

import pytest
from openai import BadRequestError
from sqlalchemy import func, update

from app.exports import repository
from app.inference import service
from app.models import Engine, File, Job, Model
from app.retention import repository as retention
from falqon_core.contract.certificate import HeldOut
from falqon_core.contract.rounding import Rounding
from tests.contract.test_exports import a_job, a_model, claim
from tests.support.api import Tenant

BOUND = Rounding(
    loss=1.5,
    loss_fp8=1.25,
    same_tokens=0.9,
    held_out=HeldOut(source="validation", num_rows=2, num_tokens=8),
)


def url(model: str) -> str:
    return f"/v1/models/{model.replace('/', '%2F')}"


def serve(tenant: Tenant, model: str, serve_as: str = "shared") -> Any:
    return tenant.http.post(url(model), json={"serve_as": serve_as})


def code_of(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def make_adapter(tenant: Tenant, bound: Rounding | None = BOUND) -> None:
    """What a worker does."""
    with tenant.api.database.transaction() as session:
        export = claim(session, tenant)
        values = {"base_model_id": tenant.base_model, "config": {}, "bytes": 5}
        model = Model(
            id=export.exported_model_id,
            project_id=export.project_id,
            job_id=export.job_id,
            format=export.format,
            deleted_at=None,
            **values,
        )
        assert repository.complete(session, export, model, [], bound)


def asked_engine(tenant: Tenant, model: str) -> str:
    """Return the model whose engine a question has loaded."""
    api = tenant.api
    lookup = (api.settings, api.database, api.app.state.services.notifier)
    assert not service.find_or_request(*lookup, tenant.project_id, model)
    with api.database.transaction() as session:
        (engine,) = (
            each
            for each in (
                session.get(Engine, (model, 0)),
                session.get(Engine, (f"{model}:gguf_lora", 0)),
            )
            if each is not None
        )
        session.delete(engine)
        return engine.model_id


def test_a_model_answers_shared_once_its_distance_is_measured(
    tenant: Tenant, stranger: Tenant
) -> None:
    model = a_model(tenant)
    before: Any = tenant.client.models.retrieve(model)
    assert (before.serve_as, before.shared_form) == ("merged", None)
    assert code_of(serve(stranger, model)) == (404, "model_not_found")
    waiting = serve(tenant, model).json()
    assert (waiting["serve_as"], waiting["shared_form"]) == ("shared", None)
    assert serve(tenant, model).json() == waiting, "asking twice is asking once"
    assert asked_engine(tenant, model) == model, "the merged model answers until then"
    make_adapter(tenant)
    shared: Any = tenant.client.models.retrieve(model)
    assert shared.shared_form == {"model": f"{model}:gguf_lora", "bound": BOUND.model_dump()}
    assert asked_engine(tenant, model) == f"{model}:gguf_lora"
    assert serve(tenant, model, "merged").json()["serve_as"] == "merged"
    assert asked_engine(tenant, model) == model
    again = serve(tenant, model).json()
    assert again["shared_form"] == shared.shared_form, "the adapter is still there"


def test_what_a_shared_model_answers_with_is_not_deleted(tenant: Tenant) -> None:
    model = a_model(tenant)
    serve(tenant, model)
    make_adapter(tenant)
    adapter = f"{model}:gguf_lora"
    refused = tenant.http.delete(url(adapter))
    assert code_of(refused) == (400, "model_in_use")
    assert f"'{model}' answers with this adapter" in refused.json()["error"]["message"]
    with tenant.api.database.read() as session:
        assert retention.is_needed(session, session.get_one(Model, adapter)), "it does not expire"
    of_project = a_model(tenant)
    with tenant.api.database.transaction() as session:
        session.get_one(Model, model).base_model_id = of_project
        session.get_one(Model, adapter).base_model_id = of_project
    refused = tenant.http.delete(url(of_project))
    assert code_of(refused) == (400, "model_in_use")
    assert "answers on the model" in refused.json()["error"]["message"]
    serve(tenant, model, "merged")
    assert tenant.http.delete(url(adapter)).status_code == 200
    assert tenant.http.delete(url(of_project)).status_code == 200


def test_an_adapter_that_was_not_measured_does_not_answer(tenant: Tenant) -> None:
    model = a_model(tenant)
    serve(tenant, model)
    make_adapter(tenant, bound=None)
    assert asked_engine(tenant, model) == model
    assert code_of(serve(tenant, model)) == (400, "bound_not_measured")


@pytest.mark.parametrize(
    ("recipe", "model_type", "code"),
    [
        ({}, "olmo2", "shared_not_available"),
        ({"update_rule": "topk"}, "llama", "shared_not_available"),
        ({"rank": 600}, "llama", "adapter_rank_too_high"),
    ],
)
def test_where_no_form_allows_it_a_sentence_says_so(
    recipe: dict[str, Any], model_type: str, code: str, tenant: Tenant
) -> None:
    model = a_model(tenant, a_job(tenant, **recipe), model_type)
    answer = serve(tenant, model)
    assert code_of(answer) == (400, code)
    assert answer.json()["error"]["param"] == "serve_as"
    assert answer.json()["error"]["message"].startswith("serve_as: ")


def test_a_base_or_a_file_that_is_gone_is_a_refusal(tenant: Tenant) -> None:
    model = a_model(tenant)
    with tenant.api.database.transaction() as session:
        session.get_one(Model, model).base_model_id = "gone"
    assert code_of(serve(tenant, model)) == (400, "base_model_deleted")
    model = a_model(tenant)
    with tenant.api.database.transaction() as session:
        job = session.get_one(Job, session.get_one(Model, model).job_id)
        of_job = File.id == job.training_file_id
        session.execute(update(File).where(of_job).values(deleted_at=func.now()))
    assert code_of(serve(tenant, model)) == (400, "bound_not_measured")


def test_only_the_model_of_a_job_is_served_in_two_ways(tenant: Tenant) -> None:
    assert code_of(serve(tenant, tenant.base_model))[0] in (400, 403, 404)
    model = a_model(tenant)
    assert code_of(serve(tenant, f"{model}:ckpt-step-1")) == (404, "model_not_found")
    answer = tenant.http.post(url(model), json={"serve_as": "somehow"})
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"update_rule": "topk"}, "there is no adapter"),
        ({"find_rate": True}, "no model to serve"),
    ],
)
def test_a_job_that_no_form_would_allow_is_refused(
    options: dict[str, Any], message: str, tenant: Tenant
) -> None:
    with pytest.raises(BadRequestError, match=message) as refused:
        tenant.job(extra_body={"falqon": {"serve_as": "shared", **options}})
    assert str(refused.value.param).startswith("falqon")
