"""Every route of the API, how to make what its path names, and what to send: what `test_access_matrix` asks as everybody."""

from collections.abc import Callable
from typing import Any, NamedTuple

from sqlalchemy import update

from app.catalogue.naming import hub_id
from app.database import now_plus
from app.ids import new_id
from app.jobs import claims
from app.jobs.events import NewEvent
from app.models import DEFAULT_PROJECT_ID, ApiKey, Artifact, Checkpoint, JobStatus, OperationStatus, Scope, Trial, WebhookDelivery
from tests.support.api import Tenant, jsonl

READ, WRITE, ADMIN = Scope.READ, Scope.WRITE, Scope.ADMIN
Parameters = dict[str, str]
EVENT = "fine_tuning.job.succeeded"
PERMISSIONS = "/v1/fine_tuning/checkpoints/{checkpoint:path}/permissions"
ENDPOINT = "/v1/webhook_endpoints/{webhook_endpoint_id}"
REPOSITORY = "/hub/api/{kind}/{repo:path}"
DATASET_FILE, MODEL_FILE = (f"/hub{kind}/{{repo:path}}/resolve/{{revision}}/{{path:path}}" for kind in ("/datasets", ""))


class Route(NamedTuple):
    scope: Scope
    make: Callable[[Tenant], Parameters] | None = None  # something new that the path names; None: the path names nothing
    remove: Callable[[Tenant, Parameters], object] | None = None  # None: it cannot be deleted
    send: Callable[[Tenant, Parameters], dict[str, Any]] = lambda tenant, made: {}  # as httpx takes it
    refers_to: tuple[str, ...] = ()  # fields of the JSON body that hold ids
    lists: Callable[[Tenant], str] | None = None  # something new that the answer must name; its id
    is_of_all: bool = False  # a collection that belongs to no project
    by_installation: bool = False  # an admin key of the project is not enough
    status: int = 200  # what the owner is answered


# --- what paths name -------------------------------------------------------------------------------------------------------------


def a_file(tenant: Tenant) -> Parameters:
    return {"file_id": tenant.upload()}


def without_file(tenant: Tenant, made: Parameters) -> None:
    tenant.client.files.delete(made["file_id"])


def a_job(tenant: Tenant) -> Parameters:
    return {"job_id": tenant.job().id}


def a_paused_job(tenant: Tenant) -> Parameters:
    made = a_job(tenant)
    tenant.client.fine_tuning.jobs.pause(made["job_id"])
    return made


def an_ended_job(tenant: Tenant) -> Parameters:
    made = a_job(tenant)
    tenant.client.fine_tuning.jobs.cancel(made["job_id"])
    return made


def a_model(tenant: Tenant) -> Parameters:
    made = {"model": new_id("ft:tiny:acme::"), "name": "weights/part 1.bin"}
    tenant.add_model(made["model"], project_id=tenant.project_id, base=tenant.base_model)
    key = f"matrix/{made['model']}"
    stored = tenant.api.storage.put(key, [b"bytes"])
    with tenant.api.database.transaction() as session:
        session.add(Artifact(model_id=made["model"], name=made["name"], bytes=stored.bytes, sha256=stored.sha256, storage_key=key))
    return made


def a_repository(tenant: Tenant) -> Parameters:
    made = a_model(tenant)
    named = {"kind": "models", "repo": hub_id(made["model"]), "revision": "main", "folder": "weights", "path": made["name"]}
    return made | named


def a_dataset(tenant: Tenant) -> Parameters:
    made = a_file(tenant)
    return made | {"repo": f"files/{made['file_id']}", "revision": "main", "path": "rows.jsonl"}


def a_job_model(tenant: Tenant) -> Parameters:
    made = {"model": new_id("ft:tiny:acme::")}
    tenant.add_model(made["model"], project_id=tenant.project_id, base=tenant.base_model, job_id=an_ended_job(tenant)["job_id"])
    return made


def an_export(tenant: Tenant) -> Parameters:
    made = a_job_model(tenant)
    tenant.http.post(f"/v1/models/{made['model']}/exports", json={"format": "bf16"}).raise_for_status()
    return made | {"format": "bf16"}


def a_model_to_try(tenant: Tenant) -> Parameters:
    """While few are tried: of those that are in progress there may not be many."""
    with tenant.api.database.transaction() as session:
        session.execute(update(Trial).where(Trial.project_id == tenant.project_id).values(status=OperationStatus.COMPLETED))
    return a_model(tenant)


def a_trial(tenant: Tenant) -> Parameters:
    made = a_model_to_try(tenant)
    trial = tenant.http.post(f"/v1/models/{made['model']}/trials", json={"prompt": "Well?"}).raise_for_status()
    return made | {"trial_id": trial.json()["id"]}


def without_model(tenant: Tenant, made: Parameters) -> None:
    tenant.client.models.delete(made["model"])


def a_key(tenant: Tenant) -> Parameters:
    public = tenant.new_key(READ).removeprefix("ft_live_").partition("_")[0]
    return {"key_id": f"key_{public}"}


def without_key(tenant: Tenant, made: Parameters) -> None:
    with tenant.api.database.transaction() as session:
        session.execute(update(ApiKey).where(ApiKey.id == made["key_id"]).values(revoked_at=now_plus()))


def the_project(tenant: Tenant) -> Parameters:
    return {"project_id": tenant.project_id}


def a_checkpoint(tenant: Tenant) -> Parameters:
    job_id = an_ended_job(tenant)["job_id"]
    row = {"attempt": 1, "step": 4, "storage_prefix": "p", "manifest_sha256": "0", "bytes": 1, "metrics": {}}
    with tenant.api.database.transaction() as session:
        session.add(Checkpoint(id=new_id("ftckpt_"), job_id=job_id, **row))
    found = tenant.client.fine_tuning.jobs.checkpoints.list(job_id).data[0]
    return {"checkpoint": found.fine_tuned_model_checkpoint, "job_id": job_id}


def a_permission(tenant: Tenant) -> Parameters:
    made = a_checkpoint(tenant)
    permissions = tenant.client.fine_tuning.checkpoints.permissions
    (given,) = permissions.create(made["checkpoint"], project_ids=[DEFAULT_PROJECT_ID]).data
    return made | {"permission_id": given.id}


def without_ended_job(tenant: Tenant, made: Parameters) -> None:
    tenant.http.delete(f"/v1/fine_tuning/jobs/{made['job_id']}").raise_for_status()


def an_upload(tenant: Tenant) -> Parameters:
    upload = tenant.client.uploads.create(filename="rows.jsonl", purpose="fine-tune", bytes=len(jsonl()), mime_type="application/jsonl")
    return {"upload_id": upload.id}


def an_upload_with_its_part(tenant: Tenant) -> Parameters:
    made = an_upload(tenant)
    return made | {"part_id": tenant.client.uploads.parts.create(made["upload_id"], data=jsonl()).id}


def an_endpoint(tenant: Tenant) -> Parameters:
    for old in tenant.client.webhooks.list():  # a project has only so many
        tenant.client.webhooks.delete(old.id)
    made = tenant.client.webhooks.create(url="https://hooks.example.com", name="ours", event_types=[EVENT])
    return {"webhook_endpoint_id": made.id}


def without_endpoint(tenant: Tenant, made: Parameters) -> None:
    tenant.client.webhooks.delete(made["webhook_endpoint_id"])


def a_delivery(tenant: Tenant) -> Parameters:
    made = an_endpoint(tenant) | {"delivery_id": new_id("whd_")}
    row = {"event_id": new_id("evt_"), "event_type": EVENT, "job_id": "ftjob-1", "status": "failed"}
    with tenant.api.database.transaction() as session:
        session.add(WebhookDelivery(id=made["delivery_id"], endpoint_id=made["webhook_endpoint_id"], **row))
    return made


def an_accuracy(tenant: Tenant) -> str:
    claim = tenant.claim(tenant.job().id)
    actual = {"seconds": 12.0, "cost": "0.0100", "ratio": 1.5, "inside_band": True}
    with tenant.api.database.transaction() as session:
        assert claims.finish(session, claim, JobStatus.SUCCEEDED, NewEvent("done"), actual=actual)
    return f"{tenant.base_model}:falqon:cpu"


# --- what is sent ----------------------------------------------------------------------------------------------------------------


def a_request(tenant: Tenant, _made: Parameters) -> dict[str, Any]:
    return {"json": {"model": tenant.base_model, "training_file": tenant.upload(), "validation_file": tenant.upload()}}


def a_form(_tenant: Tenant, _made: Parameters) -> dict[str, Any]:
    return {"files": {"file": ("rows.jsonl", jsonl())}, "data": {"purpose": "fine-tune"}}


def a_part(_tenant: Tenant, _made: Parameters) -> dict[str, Any]:
    return {"files": {"data": ("part", jsonl())}}


def an_upload_request(_tenant: Tenant, _made: Parameters) -> dict[str, Any]:
    return {"json": {"filename": "rows.jsonl", "purpose": "fine-tune", "bytes": 8, "mime_type": "application/jsonl"}}


def its_part(_tenant: Tenant, made: Parameters) -> dict[str, Any]:
    return {"json": {"part_ids": [made["part_id"]]}}


def a_key_request(tenant: Tenant, _made: Parameters) -> dict[str, Any]:
    return {"json": {"name": "k", "scope": "read", "project_id": tenant.project_id}}


def json(body: dict[str, Any]) -> Callable[[Tenant, Parameters], dict[str, Any]]:
    return lambda _tenant, _made: {"json": body}


ROUTES = {
    ("POST", "/v1/files"): Route(WRITE, send=a_form),
    ("GET", "/v1/files"): Route(READ, lists=lambda tenant: tenant.upload()),
    ("GET", "/v1/files/{file_id}"): Route(READ, a_file, without_file),
    ("DELETE", "/v1/files/{file_id}"): Route(WRITE, a_file, without_file),
    ("GET", "/v1/files/{file_id}/content"): Route(READ, a_file, without_file),
    ("HEAD", "/v1/files/{file_id}/content"): Route(READ, a_file, without_file),
    ("GET", "/v1/files/{file_id}/report"): Route(READ, a_file, without_file),
    ("POST", "/v1/uploads"): Route(WRITE, send=an_upload_request),
    ("POST", "/v1/uploads/{upload_id}/parts"): Route(WRITE, an_upload, send=a_part),
    ("POST", "/v1/uploads/{upload_id}/complete"): Route(WRITE, an_upload_with_its_part, send=its_part),
    ("POST", "/v1/uploads/{upload_id}/cancel"): Route(WRITE, an_upload),
    ("GET", "/v1/fine_tuning/estimates/accuracy"): Route(READ, lists=an_accuracy),
    ("POST", "/v1/fine_tuning/estimates"): Route(READ, send=a_request, refers_to=("training_file", "validation_file")),
    ("POST", "/v1/fine_tuning/jobs"): Route(WRITE, send=a_request, refers_to=("training_file", "validation_file")),
    ("GET", "/v1/fine_tuning/jobs"): Route(READ, lists=lambda tenant: tenant.job().id),
    ("GET", "/v1/fine_tuning/jobs/{job_id}"): Route(READ, a_job),
    ("DELETE", "/v1/fine_tuning/jobs/{job_id}"): Route(WRITE, an_ended_job, without_ended_job),
    ("POST", "/v1/fine_tuning/jobs/{job_id}/clone"): Route(WRITE, an_ended_job, without_ended_job, send=json({"suffix": "again"})),
    ("POST", "/v1/fine_tuning/jobs/{job_id}/cancel"): Route(WRITE, a_job),
    ("POST", "/v1/fine_tuning/jobs/{job_id}/pause"): Route(WRITE, a_job),
    ("POST", "/v1/fine_tuning/jobs/{job_id}/resume"): Route(WRITE, a_paused_job),
    ("GET", "/v1/fine_tuning/jobs/{job_id}/events"): Route(READ, a_job),
    ("GET", "/v1/fine_tuning/jobs/{job_id}/checkpoints"): Route(READ, a_job),
    ("GET", "/v1/fine_tuning/jobs/{job_id}/metrics"): Route(READ, an_ended_job, without_ended_job),
    ("GET", "/v1/fine_tuning/jobs/{job_id}/stream"): Route(READ, an_ended_job, without_ended_job),
    ("POST", PERMISSIONS): Route(WRITE, a_checkpoint, without_ended_job, send=json({"project_ids": [DEFAULT_PROJECT_ID]})),
    ("GET", PERMISSIONS): Route(READ, a_checkpoint, without_ended_job),
    ("DELETE", f"{PERMISSIONS}/{{permission_id}}"): Route(WRITE, a_permission, without_ended_job),
    ("POST", "/v1/fine_tuning/alpha/graders/run"): Route(READ, status=404),
    ("POST", "/v1/fine_tuning/alpha/graders/validate"): Route(READ, status=404),
    ("GET", "/v1/prices"): Route(READ, is_of_all=True),
    ("PUT", "/v1/prices"): Route(ADMIN, send=json({"overrides": []}), by_installation=True),
    ("GET", "/v1/workers"): Route(READ, is_of_all=True),
    ("GET", "/v1/webhook_event_types"): Route(READ, is_of_all=True),
    ("POST", "/v1/webhook_endpoints"): Route(WRITE, send=json({"url": "https://hooks.example.com"})),
    ("GET", "/v1/webhook_endpoints"): Route(READ, lists=lambda tenant: an_endpoint(tenant)["webhook_endpoint_id"]),
    ("GET", ENDPOINT): Route(READ, an_endpoint, without_endpoint),
    ("POST", ENDPOINT): Route(WRITE, an_endpoint, without_endpoint, send=json({"name": "renamed"})),
    ("DELETE", ENDPOINT): Route(WRITE, an_endpoint, without_endpoint),
    ("POST", f"{ENDPOINT}/rotate_secret"): Route(WRITE, an_endpoint, without_endpoint),
    # Nobody answers at the endpoint's address.
    ("POST", f"{ENDPOINT}/test"): Route(WRITE, an_endpoint, without_endpoint, send=json({"event_type": EVENT}), status=400),
    ("GET", f"{ENDPOINT}/deliveries"): Route(READ, an_endpoint, without_endpoint),
    ("POST", f"{ENDPOINT}/deliveries/{{delivery_id}}/resend"): Route(WRITE, a_delivery, without_endpoint),
    ("GET", "/v1/models"): Route(READ, lists=lambda tenant: a_model(tenant)["model"]),
    ("GET", "/v1/models/{model:path}"): Route(READ, a_model, without_model),
    ("DELETE", "/v1/models/{model:path}"): Route(WRITE, a_model, without_model),
    ("GET", "/v1/models/{model:path}/artifacts"): Route(READ, a_model, without_model),
    ("GET", "/v1/models/{model:path}/artifacts/manifest.json"): Route(READ, a_model, without_model),
    ("GET", "/v1/models/{model:path}/artifacts/{name:path}"): Route(READ, a_model, without_model),
    ("HEAD", "/v1/models/{model:path}/artifacts/{name:path}"): Route(READ, a_model, without_model),
    ("GET", "/v1/models/{model:path}/archive"): Route(READ, a_model, without_model),
    ("HEAD", "/v1/models/{model:path}/archive"): Route(READ, a_model, without_model),
    ("POST", "/v1/models/{model:path}/links"): Route(
        READ, a_model, without_model, send=lambda _tenant, made: {"json": {"name": made["name"]}}
    ),
    ("GET", "/hub/api/whoami-v2"): Route(READ, is_of_all=True),
    ("GET", REPOSITORY): Route(READ, a_repository, without_model),
    ("GET", f"{REPOSITORY}/revision/{{revision}}"): Route(READ, a_repository, without_model),
    ("GET", f"{REPOSITORY}/tree/{{revision}}"): Route(READ, a_repository, without_model),
    ("GET", f"{REPOSITORY}/tree/{{revision}}/{{folder:path}}"): Route(READ, a_repository, without_model),
    ("POST", f"{REPOSITORY}/paths-info/{{revision}}"): Route(
        READ, a_repository, without_model, send=lambda _tenant, made: {"data": {"paths": [made["path"]]}}
    ),
    ("GET", f"{REPOSITORY}/refs"): Route(READ, a_repository, without_model),
    ("GET", MODEL_FILE): Route(READ, a_repository, without_model),
    ("HEAD", MODEL_FILE): Route(READ, a_repository, without_model),
    ("GET", DATASET_FILE): Route(READ, a_dataset, without_file),
    ("HEAD", DATASET_FILE): Route(READ, a_dataset, without_file),
    ("POST", "/v1/models/{model:path}/exports"): Route(WRITE, a_job_model, without_model, send=json({"format": "bf16"})),
    ("GET", "/v1/models/{model:path}/exports"): Route(READ, a_job_model, without_model),
    ("GET", "/v1/models/{model:path}/exports/{format}"): Route(READ, an_export, without_model),
    ("POST", "/v1/models/{model:path}/trials"): Route(WRITE, a_model_to_try, without_model, send=json({"prompt": "Well?"})),
    ("GET", "/v1/models/{model:path}/trials"): Route(READ, a_model, without_model),
    ("GET", "/v1/models/{model:path}/trials/{trial_id}"): Route(READ, a_trial, without_model),
    ("POST", "/v1/projects"): Route(ADMIN, send=json({"name": "new"}), by_installation=True),
    ("GET", "/v1/projects"): Route(ADMIN, lists=lambda tenant: tenant.project_id),
    ("GET", "/v1/projects/{project_id}"): Route(ADMIN, the_project),
    ("POST", "/v1/projects/{project_id}"): Route(ADMIN, the_project, send=json({"name": "renamed"})),
    ("POST", "/v1/projects/{project_id}/archive"): Route(
        ADMIN, lambda tenant: the_project(Tenant(tenant.api)), by_installation=True
    ),
    ("POST", "/v1/api_keys"): Route(
        ADMIN, send=a_key_request, refers_to=("project_id",)
    ),
    ("GET", "/v1/api_keys"): Route(ADMIN, lists=lambda tenant: a_key(tenant)["key_id"]),
    ("GET", "/v1/api_keys/{key_id}"): Route(ADMIN, a_key, without_key),
    ("DELETE", "/v1/api_keys/{key_id}"): Route(ADMIN, a_key, without_key),
}  # fmt: skip

# Without a key. The pages of the dashboard are asked in tests/app/web/test_page_access.py.
PUBLIC = {
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/openapi.json"),
    ("HEAD", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/links/{token}/{filename}"),  # the signature in it is the key
    ("HEAD", "/links/{token}/{filename}"),
    ("*", "/static"),
    ("*", "/docs/assets"),
    ("*", "/assets/htmx"),
    ("*", "/assets/uplot"),
}
