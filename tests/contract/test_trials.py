"""Trying a model, as a client asks for it; the worker that lets it answer has tests of its own."""

from sqlalchemy import select, update

from app.ids import new_id
from app.models import Model, Trial
from app.trials.service import MAX_IN_PROGRESS
from tests.support.api import Tenant


def a_model(tenant: Tenant, format: str | None = None) -> str:
    model_id = new_id("ft:org/tiny:acme::")
    tenant.add_model(model_id, project_id=tenant.project_id, base=tenant.base_model)
    if format is not None:
        with tenant.api.database.transaction() as session:
            session.execute(update(Model).where(Model.id == model_id).values(format=format))
    return model_id


def url(model: str, rest: str = "") -> str:
    return f"/v1/models/{model.replace('/', '%2F')}/trials{rest}"


def test_a_prompt_waits_for_a_worker_and_its_answers_are_read_where_it_is(tenant: Tenant, stranger: Tenant) -> None:
    model = a_model(tenant)
    asked = tenant.http.post(url(model), json={"prompt": "Why?", "max_tokens": 16}).json()
    assert asked | {"id": "", "created_at": 0} == {
        "id": "", "object": "model.trial", "model": model, "base_model": tenant.base_model, "prompt": "Why?", "max_tokens": 16,
        "status": "in_progress", "error": None, "answer": "", "base_answer": "", "created_at": 0,
    }  # fmt: skip
    with tenant.api.database.transaction() as session:
        assert session.scalars(select(Trial.status).where(Trial.id == asked["id"])).all() == ["in_progress"]
        session.execute(update(Trial).where(Trial.id == asked["id"]).values(status="completed", answer="Because.", base_answer="?"))

    done = tenant.http.get(url(model, f"/{asked['id']}")).json()
    assert (done["status"], done["answer"], done["base_answer"]) == ("completed", "Because.", "?")
    assert tenant.http.get(url(model)).json()["data"] == [done]
    assert stranger.http.get(url(model, f"/{asked['id']}")).json()["error"]["code"] == "model_not_found"
    assert tenant.http.get(url(model, "/trial-no")).json()["error"]["code"] == "trial_not_found"


def test_limits_are_told(tenant: Tenant) -> None:
    model = a_model(tenant)
    for body, param in (({"prompt": ""}, "prompt"), ({"prompt": "x" * 8001}, "prompt"), ({"prompt": "x", "max_tokens": 513}, "max_tokens")):
        refused = tenant.http.post(url(model), json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    for _ in range(MAX_IN_PROGRESS):
        tenant.http.post(url(model), json={"prompt": "Why?"}).raise_for_status()
    refused = tenant.http.post(url(model), json={"prompt": "Why?"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "too_many_trials")


def test_a_form_that_only_other_programs_read_is_not_tried(tenant: Tenant) -> None:
    refused = tenant.http.post(url(a_model(tenant, "gguf")), json={"prompt": "Why?"}).json()["error"]
    assert "is in the gguf format; try the model that it was made from" in refused["message"]
