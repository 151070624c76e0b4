"""Every route of the API and what to send to it: what `test_access_matrix` asks as everybody."""

from collections.abc import Callable
from typing import Any, NamedTuple

from app.base.ids import new_id
from app.models import DEFAULT_PROJECT_ID, Scope
from app.workers import service as workers
from tests.contract.access_objects import (
    EVENT,
    GRADER,
    Parameters,
    a_batch,
    a_batch_file,
    a_checkpoint,
    a_dataset,
    a_delivery,
    a_file,
    a_group_grant,
    a_job,
    a_job_model,
    a_job_to_evaluate,
    a_key,
    a_model,
    a_model_import,
    a_model_to_share,
    a_model_to_switch_to,
    a_paused_job,
    a_permission,
    a_removed_user,
    a_repository,
    a_source_token,
    a_stored_answer,
    a_stored_response,
    a_study,
    a_switch,
    a_user,
    an_accuracy,
    an_alias,
    an_audit_log,
    an_ended_job,
    an_endpoint,
    an_engine,
    an_evaluation,
    an_export,
    an_upload,
    an_upload_with_its_part,
    the_only_stored_answer,
    the_project,
    without_alias,
    without_ended_job,
    without_endpoint,
    without_file,
    without_group_grant,
    without_key,
    without_model,
    without_source_token,
    without_stored_answer,
    without_stored_response,
)
from tests.support.api import Tenant, jsonl

METRICS = Scope.METRICS
INFER = Scope.INFER
READ = Scope.READ
AGENT = Scope.AGENT
WRITE = Scope.WRITE
ADMIN = Scope.ADMIN
PERMISSIONS = "/v1/fine_tuning/checkpoints/{checkpoint:path}/permissions"
COMPLETION = "/v1/chat/completions/{completion_id}"
ENDPOINT = "/v1/webhook_endpoints/{webhook_endpoint_id}"
REPOSITORY = "/hub/api/{kind}/{repo:path}"
DATASET_FILE, MODEL_FILE = (
    f"/hub{kind}/{{repo:path}}/resolve/{{revision}}/{{path:path}}" for kind in ("/datasets", "")
)


class Route(NamedTuple):
    scope: Scope
    # something new that the path names; None: the path names nothing
    make: Callable[[Tenant], Parameters] | None = None
    remove: Callable[[Tenant, Parameters], object] | None = None  # None: it cannot be deleted
    # as httpx takes it
    send: Callable[[Tenant, Parameters], dict[str, Any]] = lambda tenant, params: {}
    refers_to: tuple[str, ...] = ()  # fields of the JSON body that hold ids
    lists: Callable[[Tenant], str] | None = None  # something new that the answer must name; its id
    is_of_all: bool = False  # a collection that belongs to no project
    by_installation: bool = False  # an admin key of the project is not enough
    status: int = 200  # what the owner is answered


def _with_a_stored_answer(tenant: Tenant) -> str:
    """Store an answer; return a file with another question."""
    a_stored_answer(tenant)
    other = b'{"prompt": "a", "completion": "b"}'
    return tenant.upload(other)


def a_request(tenant: Tenant, _parameters: Parameters) -> dict[str, Any]:
    return {
        "json": {
            "model": tenant.base_model,
            "training_file": tenant.upload(),
            "validation_file": tenant.upload(),
        }
    }


def a_job_request(tenant: Tenant, parameters: Parameters) -> dict[str, Any]:
    """With the cap that a job of an agent needs."""
    body = a_request(tenant, parameters)["json"]
    return {"json": body | {"falqon": {"budget": {"max_cost_usd": "1"}}}}


def a_form(_tenant: Tenant, _parameters: Parameters) -> dict[str, Any]:
    return {"files": {"file": ("rows.jsonl", jsonl())}, "data": {"purpose": "fine-tune"}}


def a_part(_tenant: Tenant, _parameters: Parameters) -> dict[str, Any]:
    return {"files": {"data": ("part", jsonl())}}


def an_upload_request(_tenant: Tenant, _parameters: Parameters) -> dict[str, Any]:
    return {
        "json": {
            "filename": "rows.jsonl",
            "purpose": "fine-tune",
            "bytes": 8,
            "mime_type": "application/jsonl",
        }
    }


def its_part(_tenant: Tenant, params: Parameters) -> dict[str, Any]:
    return {"json": {"part_ids": [params["part_id"]]}}


def a_key_request(tenant: Tenant, _parameters: Parameters) -> dict[str, Any]:
    return {"json": {"name": "k", "scope": "read", "project_id": tenant.project_id}}


def a_model_request(_tenant: Tenant, _parameters: Parameters) -> dict[str, Any]:
    return {"json": {"id": new_id("base-"), "source": "builtin:falqon-tiny"}}


def since_a_moment(_tenant: Tenant, _parameters: Parameters) -> dict[str, Any]:
    return {"params": {"start_time": 1_790_000_000}}


def json(body: dict[str, Any]) -> Callable[[Tenant, Parameters], dict[str, Any]]:
    return lambda _tenant, _parameters: {"json": body}


def a_question(body: dict[str, Any]) -> Callable[[Tenant, Parameters], dict[str, Any]]:
    """Ask a model that no worker is there to load."""
    return lambda tenant, _parameters: {"json": body | {"model": tenant.base_model}}


def a_deletion(
    make: Callable[[Tenant], Parameters], name: str
) -> Callable[[Tenant, Parameters], dict[str, Any]]:
    return lambda tenant, _parameters: {"json": {"search": make(tenant)[name]}}


def a_worker(tenant: Tenant) -> Parameters:
    worker_id = new_id("worker-")
    with tenant.api.database.transaction() as session:
        workers.mark_seen(session, worker_id, "cpu", 2)
    return {"worker": worker_id}


def a_queued_job(tenant: Tenant) -> Parameters:
    return {"job_id": tenant.job().id}


def an_evaluation_request(tenant: Tenant, _parameters: Parameters) -> dict[str, Any]:
    return {"json": {"graders": [GRADER], "file": tenant.upload()}}


def a_batch_request(tenant: Tenant, _parameters: Parameters) -> dict[str, Any]:
    body = {"endpoint": "/v1/responses", "completion_window": "24h"}
    return {"json": body | {"input_file_id": a_batch_file(tenant)}}


def a_switch_request(tenant: Tenant, _parameters: Parameters) -> dict[str, Any]:
    return {"json": {"model": a_model_to_switch_to(tenant)}}


ROUTES = {
    ("POST", "/v1/files"): Route(AGENT, send=a_form),
    ("GET", "/v1/files"): Route(READ, lists=lambda tenant: tenant.upload()),
    ("GET", "/v1/files/{file_id}"): Route(READ, a_file, without_file),
    ("DELETE", "/v1/files/{file_id}"): Route(WRITE, a_file, without_file),
    ("POST", "/v1/files/{file_id}/check"): Route(WRITE, a_file, without_file),
    ("GET", "/v1/files/{file_id}/content"): Route(READ, a_file, without_file),
    ("HEAD", "/v1/files/{file_id}/content"): Route(READ, a_file, without_file),
    ("GET", "/v1/files/{file_id}/report"): Route(READ, a_file, without_file),
    ("GET", "/v1/source_tokens"): Route(
        ADMIN, lists=lambda tenant: a_source_token(tenant)["token_id"]
    ),
    ("PUT", "/v1/source_tokens/hf"): Route(ADMIN, send=json({"token": "hf_a"})),
    ("PUT", "/v1/source_tokens/s3"): Route(
        ADMIN, send=json({"access_key_id": "a", "secret_access_key": "b"})
    ),
    ("DELETE", "/v1/source_tokens/{token_id}"): Route(ADMIN, a_source_token, without_source_token),
    ("POST", "/v1/uploads"): Route(AGENT, send=an_upload_request),
    ("POST", "/v1/uploads/{upload_id}/parts"): Route(AGENT, an_upload, send=a_part),
    ("POST", "/v1/uploads/{upload_id}/complete"): Route(
        AGENT, an_upload_with_its_part, send=its_part
    ),
    ("POST", "/v1/uploads/{upload_id}/cancel"): Route(WRITE, an_upload),
    ("GET", "/v1/fine_tuning/estimates/accuracy"): Route(READ, lists=an_accuracy),
    ("POST", "/v1/fine_tuning/estimates"): Route(
        READ, send=a_request, refers_to=("training_file", "validation_file")
    ),
    ("POST", "/v1/fine_tuning/jobs"): Route(
        AGENT, send=a_job_request, refers_to=("training_file", "validation_file")
    ),
    ("GET", "/v1/fine_tuning/jobs"): Route(READ, lists=lambda tenant: tenant.job().id),
    ("GET", "/v1/fine_tuning/jobs/{job_id}"): Route(READ, a_job),
    ("DELETE", "/v1/fine_tuning/jobs/{job_id}"): Route(WRITE, an_ended_job, without_ended_job),
    ("POST", "/v1/fine_tuning/jobs/{job_id}"): Route(
        WRITE, a_job, send=json({"metadata": {"title": "again"}})
    ),
    ("POST", "/v1/fine_tuning/jobs/{job_id}/clone"): Route(
        WRITE, an_ended_job, without_ended_job, send=json({"suffix": "again"})
    ),
    ("POST", "/v1/fine_tuning/jobs/{job_id}/cancel"): Route(WRITE, a_job),
    ("POST", "/v1/fine_tuning/jobs/{job_id}/pause"): Route(WRITE, a_job),
    ("POST", "/v1/fine_tuning/jobs/{job_id}/resume"): Route(WRITE, a_paused_job),
    ("GET", "/v1/fine_tuning/jobs/{job_id}/events"): Route(READ, a_job),
    ("GET", "/v1/fine_tuning/jobs/{job_id}/checkpoints"): Route(READ, a_job),
    ("GET", "/v1/fine_tuning/jobs/{job_id}/metrics"): Route(READ, an_ended_job, without_ended_job),
    ("GET", "/v1/fine_tuning/jobs/{job_id}/logs"): Route(READ, an_ended_job, without_ended_job),
    ("GET", "/v1/fine_tuning/jobs/{job_id}/stream"): Route(READ, an_ended_job, without_ended_job),
    ("POST", "/v1/fine_tuning/jobs/{job_id}/evaluations"): Route(
        AGENT, a_job_to_evaluate, without_ended_job, send=an_evaluation_request
    ),
    ("GET", "/v1/fine_tuning/jobs/{job_id}/evaluations"): Route(
        READ, an_ended_job, without_ended_job
    ),
    ("GET", "/v1/fine_tuning/jobs/{job_id}/evaluations/{evaluation_id}"): Route(
        READ, an_evaluation, without_ended_job
    ),
    ("POST", "/v1/batches"): Route(AGENT, send=a_batch_request, refers_to=("input_file_id",)),
    ("GET", "/v1/batches"): Route(READ, lists=lambda tenant: a_batch(tenant)["batch_id"]),
    ("GET", "/v1/batches/{batch_id}"): Route(READ, a_batch),
    ("POST", "/v1/batches/{batch_id}/cancel"): Route(WRITE, a_batch),
    ("POST", "/v1/falqon/studies"): Route(
        WRITE, send=a_request, refers_to=("training_file", "validation_file")
    ),
    ("GET", "/v1/falqon/studies"): Route(READ, lists=lambda tenant: a_study(tenant)["study_id"]),
    ("GET", "/v1/falqon/studies/{study_id}"): Route(READ, a_study),
    ("POST", "/v1/falqon/studies/{study_id}/cancel"): Route(WRITE, a_study),
    ("GET", "/v1/falqon/studies/{study_id}/table.md"): Route(READ, a_study),
    ("GET", "/v1/falqon/studies/{study_id}/table.csv"): Route(READ, a_study),
    ("POST", PERMISSIONS): Route(
        WRITE, a_checkpoint, without_ended_job, send=json({"project_ids": [DEFAULT_PROJECT_ID]})
    ),
    ("GET", PERMISSIONS): Route(READ, a_checkpoint, without_ended_job),
    ("DELETE", f"{PERMISSIONS}/{{permission_id}}"): Route(WRITE, a_permission, without_ended_job),
    ("POST", "/v1/fine_tuning/alpha/graders/run"): Route(READ, status=404),
    ("POST", "/v1/fine_tuning/alpha/graders/validate"): Route(READ, status=404),
    ("POST", "/v1/chat/completions"): Route(
        INFER, send=a_question({"messages": [{"role": "user", "content": "Hello"}]}), status=503
    ),
    ("POST", "/v1/completions"): Route(INFER, send=a_question({"prompt": "Hello"}), status=503),
    ("POST", "/v1/embeddings"): Route(INFER, send=a_question({"input": "Hello"}), status=404),
    ("GET", "/v1/engines"): Route(READ, lists=lambda tenant: an_engine(tenant)["model"]),
    ("POST", "/v1/engines/{model:path}"): Route(
        ADMIN, an_engine, send=json({"keep_loaded": True}), by_installation=True
    ),
    ("DELETE", "/v1/engines/{model:path}"): Route(ADMIN, an_engine, by_installation=True),
    ("POST", "/v1/workers/{worker}/drain"): Route(
        ADMIN, a_worker, send=json({"draining": "finish"}), by_installation=True
    ),
    ("POST", "/v1/fine_tuning/jobs/{job_id}/requeue"): Route(
        ADMIN, a_queued_job, by_installation=True
    ),
    ("GET", "/v1/prices"): Route(READ, is_of_all=True),
    ("GET", "/metrics"): Route(ADMIN, is_of_all=True, by_installation=True),
    ("PUT", "/v1/prices"): Route(ADMIN, send=json({"overrides": []}), by_installation=True),
    ("GET", "/v1/usage"): Route(READ, send=since_a_moment, is_of_all=True),
    ("GET", "/v1/organization/costs"): Route(READ, send=since_a_moment, is_of_all=True),
    ("GET", "/v1/organization/usage/completions"): Route(READ, send=since_a_moment, is_of_all=True),
    ("GET", "/v1/organization/audit_logs"): Route(ADMIN, lists=an_audit_log),
    ("GET", "/v1/organization/users"): Route(ADMIN, is_of_all=True, by_installation=True),
    ("GET", "/v1/organization/users/{user_id}"): Route(ADMIN, a_user, by_installation=True),
    ("DELETE", "/v1/organization/users/{user_id}"): Route(ADMIN, a_user, by_installation=True),
    ("POST", "/v1/organization/users/{user_id}/readmit"): Route(
        ADMIN, a_removed_user, by_installation=True
    ),
    ("GET", "/v1/organization/group_grants"): Route(ADMIN, is_of_all=True, by_installation=True),
    ("POST", "/v1/organization/group_grants"): Route(
        ADMIN,
        send=lambda tenant, _params: {
            "json": {"group": "ours", "project_id": tenant.project_id, "scope": "read"}
        },
        by_installation=True,
    ),
    ("DELETE", "/v1/organization/group_grants/{grant_id}"): Route(
        ADMIN, a_group_grant, without_group_grant, by_installation=True
    ),
    ("GET", "/v1/workers"): Route(READ, is_of_all=True),
    ("GET", "/v1/webhook_event_types"): Route(READ, is_of_all=True),
    ("POST", "/v1/webhook_endpoints"): Route(
        WRITE, send=json({"url": "https://hooks.example.com"})
    ),
    ("GET", "/v1/webhook_endpoints"): Route(
        READ, lists=lambda tenant: an_endpoint(tenant)["webhook_endpoint_id"]
    ),
    ("GET", ENDPOINT): Route(READ, an_endpoint, without_endpoint),
    ("POST", ENDPOINT): Route(WRITE, an_endpoint, without_endpoint, send=json({"name": "renamed"})),
    ("DELETE", ENDPOINT): Route(WRITE, an_endpoint, without_endpoint),
    ("POST", f"{ENDPOINT}/rotate_secret"): Route(WRITE, an_endpoint, without_endpoint),
    # Nobody answers at the endpoint's address.
    ("POST", f"{ENDPOINT}/test"): Route(
        WRITE, an_endpoint, without_endpoint, send=json({"event_type": EVENT}), status=400
    ),
    ("GET", f"{ENDPOINT}/deliveries"): Route(READ, an_endpoint, without_endpoint),
    ("POST", f"{ENDPOINT}/deliveries/{{delivery_id}}/resend"): Route(
        WRITE, a_delivery, without_endpoint
    ),
    ("GET", "/v1/chat/completions"): Route(
        READ, lists=lambda tenant: the_only_stored_answer(tenant)["completion_id"]
    ),
    ("GET", COMPLETION): Route(READ, a_stored_answer, without_stored_answer),
    ("POST", COMPLETION): Route(
        WRITE, a_stored_answer, without_stored_answer, send=json({"metadata": {"rating": "good"}})
    ),
    ("DELETE", COMPLETION): Route(WRITE, a_stored_answer, without_stored_answer),
    ("GET", f"{COMPLETION}/messages"): Route(READ, a_stored_answer, without_stored_answer),
    ("POST", "/v1/stored_answers/delete"): Route(WRITE, send=json({"model": "missing"})),
    ("POST", "/v1/stored_answers/files"): Route(
        WRITE,
        send=lambda tenant, _params: {
            "json": {
                "filter": {"metadata": {"team": "red"}},
                "held_out_file": _with_a_stored_answer(tenant),
            }
        },
        refers_to=("held_out_file",),
    ),
    ("POST", "/v1/responses"): Route(INFER, send=a_question({"input": "Hello"}), status=503),
    ("GET", "/v1/responses/{response_id}"): Route(READ, a_stored_response, without_stored_response),
    ("DELETE", "/v1/responses/{response_id}"): Route(
        WRITE, a_stored_response, without_stored_response
    ),
    ("GET", "/v1/aliases"): Route(READ, lists=lambda tenant: an_alias(tenant)["alias"]),
    ("POST", "/v1/aliases"): Route(
        WRITE,
        send=lambda tenant, _params: {"json": {"name": new_id("a-"), "model": tenant.base_model}},
    ),
    ("GET", "/v1/aliases/{alias}"): Route(READ, an_alias, without_alias),
    ("DELETE", "/v1/aliases/{alias}"): Route(WRITE, an_alias, without_alias),
    ("GET", "/v1/models/{model:path}/retention"): Route(READ, a_model, without_model),
    ("POST", "/v1/models/{model:path}/retention"): Route(
        WRITE, a_model, without_model, send=json({"pinned": True})
    ),
    ("POST", "/v1/falqon/deletions/models"): Route(WRITE, send=a_deletion(a_model, "model")),
    ("POST", "/v1/falqon/deletions/jobs"): Route(WRITE, send=a_deletion(an_ended_job, "job_id")),
    ("GET", "/v1/aliases/{alias}/usage"): Route(READ, an_alias, without_alias),
    ("GET", "/v1/aliases/{alias}/versions"): Route(READ, an_alias),
    ("POST", "/v1/aliases/{alias}/rollback"): Route(WRITE, an_alias),
    ("POST", "/v1/aliases/{alias}/switches"): Route(
        WRITE, an_alias, without_alias, send=a_switch_request
    ),
    ("GET", "/v1/aliases/{alias}/switches"): Route(READ, a_switch, without_alias),
    ("GET", "/v1/aliases/{alias}/switches/{switch_id}"): Route(READ, a_switch),
    ("GET", "/v1/models"): Route(INFER, lists=lambda tenant: a_model(tenant)["model"]),
    ("POST", "/v1/models"): Route(ADMIN, send=a_model_request, by_installation=True),
    ("GET", "/v1/model_imports"): Route(ADMIN, is_of_all=True, by_installation=True),
    ("GET", "/v1/model_imports/{import_id}"): Route(ADMIN, a_model_import, by_installation=True),
    ("GET", "/v1/models/{model:path}"): Route(INFER, a_model, without_model),
    ("POST", "/v1/models/{model:path}"): Route(
        WRITE, a_model_to_share, without_model, send=json({"serve_as": "shared"})
    ),
    ("DELETE", "/v1/models/{model:path}"): Route(WRITE, a_model, without_model),
    ("GET", "/v1/models/{model:path}/artifacts"): Route(READ, a_model, without_model),
    ("GET", "/v1/models/{model:path}/artifacts/manifest.json"): Route(READ, a_model, without_model),
    ("GET", "/v1/models/{model:path}/artifacts/{name:path}"): Route(READ, a_model, without_model),
    ("HEAD", "/v1/models/{model:path}/artifacts/{name:path}"): Route(READ, a_model, without_model),
    ("GET", "/v1/models/{model:path}/archive"): Route(READ, a_model, without_model),
    ("HEAD", "/v1/models/{model:path}/archive"): Route(READ, a_model, without_model),
    ("POST", "/v1/models/{model:path}/links"): Route(
        READ,
        a_model,
        without_model,
        send=lambda _tenant, params: {"json": {"name": params["name"]}},
    ),
    ("GET", "/hub/api/whoami-v2"): Route(READ, is_of_all=True),
    ("GET", REPOSITORY): Route(READ, a_repository, without_model),
    ("GET", f"{REPOSITORY}/revision/{{revision}}"): Route(READ, a_repository, without_model),
    ("GET", f"{REPOSITORY}/tree/{{revision}}"): Route(READ, a_repository, without_model),
    ("GET", f"{REPOSITORY}/tree/{{revision}}/{{folder:path}}"): Route(
        READ, a_repository, without_model
    ),
    ("POST", f"{REPOSITORY}/paths-info/{{revision}}"): Route(
        READ,
        a_repository,
        without_model,
        send=lambda _tenant, params: {"data": {"paths": [params["path"]]}},
    ),
    ("GET", f"{REPOSITORY}/refs"): Route(READ, a_repository, without_model),
    ("GET", MODEL_FILE): Route(READ, a_repository, without_model),
    ("HEAD", MODEL_FILE): Route(READ, a_repository, without_model),
    ("GET", DATASET_FILE): Route(READ, a_dataset, without_file),
    ("HEAD", DATASET_FILE): Route(READ, a_dataset, without_file),
    ("POST", "/v1/models/{model:path}/exports"): Route(
        WRITE, a_job_model, without_model, send=json({"format": "bf16"})
    ),
    ("GET", "/v1/models/{model:path}/exports"): Route(READ, a_job_model, without_model),
    ("GET", "/v1/models/{model:path}/exports/{format}"): Route(READ, an_export, without_model),
    ("POST", "/v1/projects"): Route(ADMIN, send=json({"name": "new"}), by_installation=True),
    ("GET", "/v1/projects"): Route(ADMIN, lists=lambda tenant: tenant.project_id),
    ("GET", "/v1/projects/{project_id}"): Route(ADMIN, the_project),
    ("POST", "/v1/projects/{project_id}"): Route(
        ADMIN, the_project, send=json({"name": "renamed"})
    ),
    ("POST", "/v1/projects/{project_id}/archive"): Route(
        ADMIN, lambda tenant: the_project(Tenant(tenant.api)), by_installation=True
    ),
    ("POST", "/v1/api_keys"): Route(ADMIN, send=a_key_request, refers_to=("project_id",)),
    ("GET", "/v1/api_keys"): Route(ADMIN, lists=lambda tenant: a_key(tenant)["key_id"]),
    ("GET", "/v1/api_keys/{key_id}"): Route(ADMIN, a_key, without_key),
    ("DELETE", "/v1/api_keys/{key_id}"): Route(ADMIN, a_key, without_key),
}

# With the token of a worker, and with no key: tests/contract/test_joined_workers.py.
OF_ATTEMPT = "/v1/worker/jobs/{job_id}/attempts/{attempt}"
OF_WORKERS = {
    ("GET", "/v1/worker/terms"),
    ("POST", "/v1/worker/storage"),
    ("GET", "/v1/worker/next"),
    ("POST", "/v1/worker/hold"),
    ("POST", "/v1/worker/seen"),
    ("POST", "/v1/worker/claims"),
    ("POST", f"{OF_ATTEMPT}/renew"),
    ("GET", f"{OF_ATTEMPT}/inputs"),
    ("POST", f"{OF_ATTEMPT}/events"),
    ("POST", f"{OF_ATTEMPT}/batches"),
    ("GET", f"{OF_ATTEMPT}/watched"),
    ("POST", f"{OF_ATTEMPT}/checkpoints"),
    ("POST", f"{OF_ATTEMPT}/log"),
    ("POST", f"{OF_ATTEMPT}/ending"),
    ("POST", f"{OF_ATTEMPT}/result"),
    ("POST", f"{OF_ATTEMPT}/links"),
    ("GET", f"{OF_ATTEMPT}/objects/{{key:path}}"),
    ("PUT", f"{OF_ATTEMPT}/objects/{{key:path}}"),
}

# Without a key. The pages of the dashboard are asked in tests/app/web/test_page_access.py.
PUBLIC = {
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/openapi.json"),
    ("HEAD", "/openapi.json"),
    ("GET", "/docs"),
    ("HEAD", "/docs"),
    ("GET", "/links/{token}/{filename}"),  # the signature in it is the key
    ("HEAD", "/links/{token}/{filename}"),
    ("*", "/static"),
    ("*", "/docs/assets"),
    ("*", "/assets/htmx"),
    ("*", "/assets/uplot"),
}
