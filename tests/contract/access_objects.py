"""What the paths of the API name: how to make each, and how to remove it again."""

import json
from dataclasses import replace
from decimal import Decimal

from sqlalchemy import select, update

from app.auth import worker_tokens
from app.auth.oidc.identity import Identity
from app.base.database import now_plus
from app.base.ids import new_id
from app.catalogue.naming import hub_id
from app.jobs import claims
from app.jobs.events import NewEvent
from app.models import (
    DEFAULT_PROJECT_ID,
    AnswerKind,
    ApiKey,
    AuditLog,
    Engine,
    EngineState,
    Evaluation,
    Job,
    JobStatus,
    Model,
    ModelImport,
    OperationStatus,
    Scope,
    WebhookDelivery,
)
from app.source_tokens import repository as source_tokens
from app.stored_answers.storing import store
from app.users import repository as users
from falqon_core.estimate.estimate import Actual
from tests.support.answers import add_answer, keep_answers, new_answer
from tests.support.api import Tenant, jsonl

Parameters = dict[str, str]
GRADER = {"type": "string_check", "name": "same", "operation": "eq"}
EVENT = "fine_tuning.job.succeeded"


def a_file(tenant: Tenant) -> Parameters:
    return {"file_id": tenant.upload()}


def without_file(tenant: Tenant, params: Parameters) -> None:
    tenant.client.files.delete(params["file_id"])


def a_job(tenant: Tenant) -> Parameters:
    return {"job_id": tenant.job().id}


def a_study(tenant: Tenant) -> Parameters:
    body = {
        "model": tenant.base_model,
        "training_file": tenant.upload(),
        "methods": ["falqon", "lora"],
    }
    study = tenant.http.post("/v1/falqon/studies", json=body)
    return {"study_id": study.json()["id"]}


def a_paused_job(tenant: Tenant) -> Parameters:
    params = a_job(tenant)
    tenant.client.fine_tuning.jobs.pause(params["job_id"])
    return params


def an_ended_job(tenant: Tenant) -> Parameters:
    params = a_job(tenant)
    tenant.client.fine_tuning.jobs.cancel(params["job_id"])
    return params


def a_model(tenant: Tenant) -> Parameters:
    params = {"model": new_id("ft:tiny:acme::"), "name": "weights/part 1.bin"}
    tenant.add_model(params["model"], project_id=tenant.project_id, base=tenant.base_model)
    tenant.store_artifacts(params["model"], {params["name"]: b"bytes"})
    return params


def a_repository(tenant: Tenant) -> Parameters:
    params = a_model(tenant)
    address = {
        "kind": "models",
        "repo": hub_id(params["model"]),
        "revision": "main",
        "folder": "weights",
        "path": params["name"],
    }
    return params | address


def a_dataset(tenant: Tenant) -> Parameters:
    params = a_file(tenant)
    return params | {"repo": f"files/{params['file_id']}", "revision": "main", "path": "rows.jsonl"}


def a_job_model(tenant: Tenant) -> Parameters:
    params = {"model": new_id("ft:tiny:acme::")}
    tenant.add_model(
        params["model"],
        project_id=tenant.project_id,
        base=tenant.base_model,
        job_id=an_ended_job(tenant)["job_id"],
    )
    return params


def a_model_to_share(tenant: Tenant) -> Parameters:
    """Of a family that llama.cpp has."""
    params = a_job_model(tenant)
    with tenant.api.database.transaction() as session:
        session.get_one(Model, params["model"]).config = {"model_type": "llama"}
    return params


def an_export(tenant: Tenant) -> Parameters:
    params = a_job_model(tenant)
    tenant.http.post(
        f"/v1/models/{params['model']}/exports", json={"format": "bf16"}
    ).raise_for_status()
    return params | {"format": "bf16"}


def a_job_to_evaluate(tenant: Tenant) -> Parameters:
    """While few are evaluated: of those that are in progress there may not be many."""
    params = an_ended_job(tenant)
    model_id = a_model(tenant)["model"]
    held_out = tenant.upload()
    with tenant.api.database.transaction() as session:
        session.execute(
            update(Evaluation)
            .where(Evaluation.project_id == tenant.project_id)
            .values(status=OperationStatus.COMPLETED)
        )
        session.execute(
            update(Job)
            .where(Job.id == params["job_id"])
            .values(fine_tuned_model_id=model_id, validation_file_id=held_out)
        )
    return params


def an_evaluation(tenant: Tenant) -> Parameters:
    params = a_job_to_evaluate(tenant)
    evaluation = tenant.http.post(
        f"/v1/fine_tuning/jobs/{params['job_id']}/evaluations",
        json={"graders": [GRADER], "file": tenant.upload()},
    ).raise_for_status()
    return params | {"evaluation_id": evaluation.json()["id"]}


def a_batch_file(tenant: Tenant) -> str:
    content = b'{"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {}}'
    return tenant.client.files.create(file=("requests.jsonl", content), purpose="batch").id


def a_batch(tenant: Tenant) -> Parameters:
    batch = tenant.client.batches.create(
        input_file_id=a_batch_file(tenant),
        endpoint="/v1/responses",
        completion_window="24h",
    )
    return {"batch_id": batch.id}


def without_model(tenant: Tenant, params: Parameters) -> None:
    tenant.client.models.delete(params["model"])


def a_key(tenant: Tenant) -> Parameters:
    public = tenant.new_key(Scope.READ).removeprefix("ft_live_").partition("_")[0]
    return {"key_id": f"key_{public}"}


def a_worker_token(tenant: Tenant) -> Parameters:
    with tenant.api.database.transaction() as session:
        token, _ = worker_tokens.create(session, "cluster", [tenant.project_id])
        return {"token_id": token.id}


def a_user(tenant: Tenant) -> Parameters:
    identity = Identity("https://login.example.com", new_id("subject-"), None, frozenset())
    with tenant.api.database.transaction() as session:
        return {"user_id": users.note_sign_in(session, identity).id}


def a_removed_user(tenant: Tenant) -> Parameters:
    params = a_user(tenant)
    with tenant.api.database.transaction() as session:
        users.set_removed(session, params["user_id"], is_removed=True)
    return params


def a_group_grant(tenant: Tenant) -> Parameters:
    with tenant.api.database.transaction() as session:
        grant = users.put_grant(session, new_id("group-"), tenant.project_id, Scope.READ)
        return {"grant_id": grant.id}


def without_group_grant(tenant: Tenant, params: Parameters) -> None:
    with tenant.api.database.transaction() as session:
        users.delete_grant(session, params["grant_id"])


def without_key(tenant: Tenant, params: Parameters) -> None:
    with tenant.api.database.transaction() as session:
        session.execute(
            update(ApiKey).where(ApiKey.id == params["key_id"]).values(revoked_at=now_plus())
        )


def a_model_import(tenant: Tenant) -> Parameters:
    with tenant.api.database.transaction() as session:
        imported = ModelImport(
            id=new_id("mimport-"),
            project_id=DEFAULT_PROJECT_ID,
            model_id=new_id("base-"),
            source="hf://acme/base",
            status=OperationStatus.COMPLETED,
        )
        session.add(imported)
    return {"import_id": imported.id}


def a_stored_answer(tenant: Tenant) -> Parameters:
    keep_answers(tenant)
    return {"completion_id": add_answer(tenant.api.database, tenant.project_id, team="red")}


def the_only_stored_answer(tenant: Tenant) -> Parameters:
    """The list begins with the oldest."""
    others = {"metadata": {"team": "red"}}
    tenant.http.post("/v1/stored_answers/delete", json=others).raise_for_status()
    return a_stored_answer(tenant)


def without_stored_answer(tenant: Tenant, params: Parameters) -> None:
    path = f"/v1/chat/completions/{params['completion_id']}"
    tenant.http.delete(path).raise_for_status()


def a_stored_response(tenant: Tenant) -> Parameters:
    keep_answers(tenant)
    answer = new_answer(tenant.project_id)
    document = {"object": "response", "model": "m", "status": "completed", "output": []}
    answer = replace(answer, kind=AnswerKind.RESPONSE, document=json.dumps(document))
    store(tenant.api.database, [answer])
    return {"response_id": f"resp_{answer.id}"}


def without_stored_response(tenant: Tenant, params: Parameters) -> None:
    tenant.http.delete(f"/v1/responses/{params['response_id']}").raise_for_status()


def an_alias(tenant: Tenant) -> Parameters:
    name = new_id("gpt-")
    for weight in (1, 2):
        models = [{"model": tenant.base_model, "weight": weight}]
        tenant.http.post("/v1/aliases", json={"name": name, "models": models})
    return {"alias": name}


def a_model_to_switch_to(tenant: Tenant) -> str:
    job_id = a_job_to_evaluate(tenant)["job_id"]
    with tenant.api.database.transaction() as session:
        model_id = session.get_one(Job, job_id).fine_tuned_model_id
        session.execute(update(Model).where(Model.id == model_id).values(job_id=job_id))
    return str(model_id)


def a_switch(tenant: Tenant) -> Parameters:
    params = an_alias(tenant)
    path = f"/v1/aliases/{params['alias']}/switches"
    switch = tenant.http.post(path, json={"model": a_model_to_switch_to(tenant)})
    return params | {"switch_id": switch.raise_for_status().json()["id"]}


def without_alias(tenant: Tenant, params: Parameters) -> None:
    tenant.http.delete(f"/v1/aliases/{params['alias']}")


def a_source_token(tenant: Tenant) -> Parameters:
    with tenant.api.database.transaction() as session:
        token = source_tokens.put(session, tenant.project_id, "hf", {"token": "hf_a"})
    return {"token_id": token.id}


def without_source_token(tenant: Tenant, params: Parameters) -> None:
    with tenant.api.database.transaction() as session:
        source_tokens.remove(session, tenant.project_id, params["token_id"])


def the_project(tenant: Tenant) -> Parameters:
    return {"project_id": tenant.project_id}


def a_checkpoint(tenant: Tenant) -> Parameters:
    job_id = an_ended_job(tenant)["job_id"]
    return {"checkpoint": tenant.add_checkpoint(job_id), "job_id": job_id}


def a_permission(tenant: Tenant) -> Parameters:
    params = a_checkpoint(tenant)
    permissions = tenant.client.fine_tuning.checkpoints.permissions
    (permission,) = permissions.create(params["checkpoint"], project_ids=[DEFAULT_PROJECT_ID]).data
    return params | {"permission_id": permission.id}


def without_ended_job(tenant: Tenant, params: Parameters) -> None:
    tenant.http.delete(f"/v1/fine_tuning/jobs/{params['job_id']}").raise_for_status()


def an_upload(tenant: Tenant) -> Parameters:
    upload = tenant.client.uploads.create(
        filename="rows.jsonl",
        purpose="fine-tune",
        bytes=len(jsonl()),
        mime_type="application/jsonl",
    )
    return {"upload_id": upload.id}


def an_upload_with_its_part(tenant: Tenant) -> Parameters:
    params = an_upload(tenant)
    return params | {
        "part_id": tenant.client.uploads.parts.create(params["upload_id"], data=jsonl()).id
    }


def an_endpoint(tenant: Tenant) -> Parameters:
    for old in tenant.client.webhooks.list():  # a project has only so many
        tenant.client.webhooks.delete(old.id)
    endpoint = tenant.client.webhooks.create(
        url="https://hooks.example.com", name="ours", event_types=[EVENT]
    )
    return {"webhook_endpoint_id": endpoint.id}


def without_endpoint(tenant: Tenant, params: Parameters) -> None:
    tenant.client.webhooks.delete(params["webhook_endpoint_id"])


def a_delivery(tenant: Tenant) -> Parameters:
    params = an_endpoint(tenant) | {"delivery_id": new_id("whd_")}
    row = {"event_id": new_id("evt_"), "event_type": EVENT, "job_id": "ftjob-1", "status": "failed"}
    with tenant.api.database.transaction() as session:
        session.add(
            WebhookDelivery(
                id=params["delivery_id"], endpoint_id=params["webhook_endpoint_id"], **row
            )
        )
    return params


def an_engine(tenant: Tenant) -> Parameters:
    """Of a model of the project's own, on a worker that is not there."""
    params = a_model(tenant)
    with tenant.api.database.transaction() as session:
        session.add(
            Engine(
                model_id=params["model"],
                state=EngineState.READY,
                owner="worker-1",
                lease_expires_at=now_plus(600),
                used_at=now_plus(),
            )
        )
    return {"model": params["model"]}


def an_accuracy(tenant: Tenant) -> str:
    claim = tenant.claim(tenant.job().id)
    actual = Actual(seconds=12.0, cost=Decimal("0.0100"), ratio=1.5, inside_band=True)
    with tenant.api.database.transaction() as session:
        assert claims.finish(session, claim, JobStatus.SUCCEEDED, NewEvent("done"), actual=actual)
    return f"{tenant.base_model}:falqon:cpu"


def an_audit_log(tenant: Tenant) -> str:
    job = tenant.job()
    with tenant.api.database.read() as session:
        row = select(AuditLog.id).where(AuditLog.resource_id == job.id)
        return str(session.scalars(row).one())
