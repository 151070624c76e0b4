"""A model in another format, as a client asks for it; the worker that makes it has tests of its
own.
"""

from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.base.ids import new_id
from app.base.storage import keys
from app.exports import repository
from app.models import Artifact, Export, Job, JobStatus, Model
from app.operations import claims
from falqon_core.contract.config import Recipe
from falqon_core.contract.quantization_config import quantization_config
from tests.support.api import Tenant


def a_job(tenant: Tenant, **recipe: Any) -> str:
    job_id = tenant.job().id
    tenant.client.fine_tuning.jobs.cancel(job_id)
    with tenant.api.database.transaction() as session:
        values = {
            "status": JobStatus.SUCCEEDED,
            "recipe": Recipe.model_validate(recipe).resolved(10),
        }
        session.execute(update(Job).where(Job.id == job_id).values(**values))
    return str(job_id)


def a_model(tenant: Tenant, job_id: str | None = None, model_type: str = "llama") -> str:
    model_id = new_id("ft:org/tiny:acme::")
    tenant.add_model(
        model_id,
        project_id=tenant.project_id,
        base=tenant.base_model,
        job_id=job_id or a_job(tenant),
    )
    with tenant.api.database.transaction() as session:
        session.execute(
            update(Model).where(Model.id == model_id).values(config={"model_type": model_type})
        )
    return model_id


def url(model: str, rest: str = "") -> str:
    return f"/v1/models/{model.replace('/', '%2F')}/exports{rest}"


def ask(tenant: Tenant, model: str, format: str) -> Any:
    return tenant.http.post(url(model), json={"format": format})


def claim(session: Session, tenant: Tenant) -> Export:
    """Those that other tests have left waiting come first."""
    while (export := claims.claim(session, Export, 60)) is not None:
        if export.project_id == tenant.project_id:
            return export
    raise AssertionError("no export of this project waits")


def finish(tenant: Tenant) -> None:
    """What a worker does with the oldest operation."""
    with tenant.api.database.transaction() as session:
        export = claim(session, tenant)
        model = Model(
            id=export.exported_model_id,
            project_id=export.project_id,
            base_model_id=tenant.base_model,
            job_id=export.job_id,
            format=export.format,
            config={},
            bytes=5,
            deleted_at=None,
        )
        key = keys.export_file(export.project_id, export.id, export.attempt, "file")
        stored = tenant.api.storage.put(key, [b"bytes"])
        artifact = Artifact(model_id=model.id, name="file", storage_key=key, **stored._asdict())
        assert repository.complete(session, export, model, [artifact])


def test_asking_twice_is_asking_once_and_the_result_is_a_model(
    tenant: Tenant, stranger: Tenant
) -> None:
    model = a_model(tenant)
    first = ask(tenant, model, "gguf").json()
    assert (first["object"], first["model"], first["format"], first["status"]) == (
        "model.export",
        model,
        "gguf",
        "in_progress",
    )
    assert (first["exported_model"], first["error"]) == (None, None)
    assert ask(tenant, model, "gguf").json() == first
    assert tenant.http.get(url(model, "/gguf")).json() == first
    assert stranger.http.get(url(model, "/gguf")).json()["error"]["code"] == "model_not_found"

    finish(tenant)
    done = ask(tenant, model, "gguf").json()
    assert done == first | {"status": "completed", "exported_model": f"{model}:gguf"}
    assert [listed["id"] for listed in tenant.http.get(url(model)).json()["data"]] == [first["id"]]
    exported: Any = tenant.client.models.retrieve(f"{model}:gguf")
    assert (exported.format, exported.base_model) == ("gguf", tenant.base_model)
    (artifact,) = tenant.http.get(f"/v1/models/{exported.id.replace('/', '%2F')}/artifacts").json()[
        "data"
    ]
    assert artifact["name"] == "file"
    assert (
        tenant.http.get(f"/v1/models/{exported.id.replace('/', '%2F')}/artifacts/file").content
        == b"bytes"
    )


def test_a_failed_or_deleted_export_is_made_again(tenant: Tenant) -> None:
    model = a_model(tenant)
    ask(tenant, model, "bf16")
    with tenant.api.database.transaction() as session:
        export = claim(session, tenant)
        claims.fail(session, export, "too_slow", "The export took more than 60 minutes.")
    failed = tenant.http.get(url(model, "/bf16")).json()
    assert (failed["status"], failed["error"]) == (
        "failed",
        {"code": "too_slow", "message": "The export took more than 60 minutes."},
    )
    assert ask(tenant, model, "bf16").json()["status"] == "in_progress"
    finish(tenant)
    tenant.client.models.delete(f"{model}:bf16")
    assert ask(tenant, model, "bf16").json()["status"] == "in_progress"
    finish(tenant)
    assert tenant.client.models.retrieve(f"{model}:bf16").id == f"{model}:bf16"


def test_a_checkpoint_becomes_a_model_of_its_name(tenant: Tenant) -> None:
    job_id = a_job(tenant)
    name = tenant.add_checkpoint(job_id)
    assert ask(tenant, name, "fp8").json()["status"] == "in_progress"
    finish(tenant)
    assert ask(tenant, name, "fp8").json()["exported_model"] == name
    assert tenant.client.models.retrieve(name).id == name
    assert (
        ask(tenant, name.replace("step-4", "step-5"), "fp8").json()["error"]["code"]
        == "checkpoint_not_found"
    )


def test_an_unavailable_export_is_refused_with_the_reason(tenant: Tenant) -> None:
    for model, format, code, words in (
        (tenant.base_model, "bf16", "model_not_exportable", "not the result of a fine-tuning job"),
        (a_model(tenant), "fp8", "format_not_available", "is the FP8 model already"),
        (
            a_model(tenant, a_job(tenant, update_rule="topk")),
            "lora",
            "format_not_available",
            "there is no adapter",
        ),
        (
            a_model(tenant, a_job(tenant, base_copy="none")),
            "lora",
            "format_not_available",
            "there is no adapter",
        ),
        (
            a_model(tenant, "ftjob-deleted"),
            "lora",
            "format_not_available",
            "has been deleted with its checkpoints",
        ),
        (
            a_model(tenant, "ftjob-deleted"),
            "q4_1",
            "format_not_available",
            "has been deleted with its checkpoints",
        ),
        (a_model(tenant), "q4_1", "format_not_available", "only method 'qa_lora'"),
        (a_model(tenant, model_type="gemma"), "gguf", "format_not_available", "'gemma'"),
    ):
        response = ask(tenant, model, format)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (400, code), error
        assert words in error["message"]
        assert not error["message"].endswith("..")
    assert ask(tenant, a_model(tenant), "zip").json()["error"]["param"] == "format"
    assert (
        tenant.http.get(url(a_model(tenant), "/lora")).json()["error"]["code"] == "export_not_found"
    )


def test_a_model_in_blocks_is_only_had_as_it_was_trained(tenant: Tenant) -> None:
    model = a_model(tenant, a_job(tenant, weights="q4_0"))
    for format, words in (
        ("q4_0", "is the Q4_0 model already"),
        ("fp8", "its weights were trained in Q4_0"),
        ("nvfp4", "take q4_0, or bf16"),
        ("lora", "trained through the rounding to Q4_0"),
        ("gguf_lora", "trained through the rounding to Q4_0"),
        ("gguf_q4_k_m", "take gguf_q4_0, which holds them exactly"),
    ):
        error = ask(tenant, model, format).json()["error"]
        assert error["code"] == "format_not_available"
        assert words in error["message"]
    shared = tenant.http.post(
        f"/v1/models/{model.replace('/', '%2F')}", json={"serve_as": "shared"}
    )
    assert "rounding to Q4_0" in shared.json()["error"]["message"]
    for format in ("bf16", "gguf", "gguf_q4_0"):
        assert ask(tenant, model, format).json()["status"] == "in_progress"
    error = ask(tenant, a_model(tenant), "gguf_q4_0").json()["error"]
    assert "take gguf_q4_k_m" in error["message"]


def test_a_model_says_its_form_when_its_job_is_gone(tenant: Tenant) -> None:
    model = a_model(tenant, "ftjob-deleted")
    config = {"model_type": "llama", "quantization_config": quantization_config([], "nvfp4")}
    with tenant.api.database.transaction() as session:
        session.execute(update(Model).where(Model.id == model).values(config=config))
    error = ask(tenant, model, "gguf_q4_k_m").json()["error"]
    assert "its weights are in NVFP4 already" in error["message"]
    assert ask(tenant, model, "gguf").json()["status"] == "in_progress"


def test_a_checkpoint_in_blocks_becomes_a_model_in_blocks(tenant: Tenant) -> None:
    name = tenant.add_checkpoint(a_job(tenant, weights="nvfp4"))
    refused = ask(tenant, name, "fp8").json()["error"]["message"]
    assert "its weights were trained in NVFP4" in refused
    body = {"model": name, "messages": [{"role": "user", "content": "Hi"}]}
    asked = tenant.http.post("/v1/chat/completions", json=body).json()["error"]["message"]
    assert f"falqon models export {name} --format nvfp4" in asked
    assert ask(tenant, name, "nvfp4").json()["status"] == "in_progress"
    finish(tenant)
    assert tenant.client.models.retrieve(name).id == name


@pytest.mark.parametrize("format", ["lora", "gguf_lora", "gguf", "gguf_q4_k_m", "q4_1"])
def test_nobody_trains_from_a_form_that_cannot_be_trained(tenant: Tenant, format: str) -> None:
    model = a_model(tenant, a_job(tenant, method="qa_lora"))
    ask(tenant, model, format)
    finish(tenant)
    body = {"model": f"{model}:{format}", "training_file": tenant.upload()}
    error = tenant.http.post("/v1/fine_tuning/jobs", json=body).json()["error"]
    assert (error["code"], error["param"]) == ("model_not_trainable", "model")
    assert error["message"].endswith(f"training starts from '{model}'.")
