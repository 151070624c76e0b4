"""Who changed what: a row for each request that changed something, of the same transaction."""

import re
from collections.abc import Iterator

import httpx
import pytest
from openai import OpenAI

from app.models import DEFAULT_PROJECT_ID, Scope
from tests.contract.access_objects import Parameters
from tests.contract.access_routes import ROUTES
from tests.support.api import Api, Tenant
from tests.support.audit import SAFE, UNAUDITED, rows_of

CHANGES = [(method, path) for method, path in sorted(ROUTES) if method not in SAFE]
CHECKPOINT = "/v1/fine_tuning/checkpoints/{checkpoint:path}"
EVENT_TYPES = {
    ("DELETE", "/v1/aliases/{alias}"): "alias.deleted",
    ("DELETE", "/v1/api_keys/{key_id}"): "api_key.deleted",
    ("DELETE", "/v1/engines/{model:path}"): "engine.deleted",
    ("DELETE", "/v1/files/{file_id}"): "file.deleted",
    ("DELETE", f"{CHECKPOINT}/permissions/{{permission_id}}"): "checkpoint.permission.deleted",
    ("DELETE", "/v1/fine_tuning/jobs/{job_id}"): "job.deleted",
    ("DELETE", "/v1/models/{model:path}"): "model.deleted",
    ("DELETE", "/v1/organization/group_grants/{grant_id}"): "group_grant.deleted",
    ("DELETE", "/v1/organization/users/{user_id}"): "user.deleted",
    ("DELETE", "/v1/source_tokens/{token_id}"): "source_token.deleted",
    ("DELETE", "/v1/webhook_endpoints/{webhook_endpoint_id}"): "webhook.deleted",
    ("DELETE", "/v1/chat/completions/{completion_id}"): "stored_answer.deleted",
    ("DELETE", "/v1/responses/{response_id}"): "stored_answer.deleted",
    ("POST", "/v1/aliases"): "alias.updated",
    ("POST", "/v1/aliases/{alias}/rollback"): "alias.rolled_back",
    ("POST", "/v1/aliases/{alias}/switches"): "alias.switch_created",
    ("POST", "/v1/api_keys"): "api_key.created",
    ("POST", "/v1/batches"): "batch.created",
    ("POST", "/v1/batches/{batch_id}/cancel"): "batch.cancelled",
    ("POST", "/v1/engines/{model:path}"): "engine.updated",
    ("POST", "/v1/falqon/studies"): "study.created",
    ("POST", "/v1/falqon/studies/{study_id}/cancel"): "study.cancelled",
    ("POST", "/v1/files"): "file.created",
    ("POST", "/v1/files/{file_id}/check"): "file.checked",
    (
        "POST",
        "/v1/fine_tuning/checkpoints/{checkpoint:path}/permissions",
    ): "checkpoint.permission.created",
    ("POST", "/v1/fine_tuning/jobs"): "job.created",
    ("POST", "/v1/fine_tuning/jobs/{job_id}"): "job.updated",
    ("POST", "/v1/fine_tuning/jobs/{job_id}/cancel"): "job.cancelled",
    ("POST", "/v1/fine_tuning/jobs/{job_id}/clone"): "job.cloned",
    ("POST", "/v1/fine_tuning/jobs/{job_id}/evaluations"): "evaluation.created",
    ("POST", "/v1/fine_tuning/jobs/{job_id}/pause"): "job.paused",
    ("POST", "/v1/fine_tuning/jobs/{job_id}/resume"): "job.resumed",
    ("POST", "/v1/workers/{worker}/drain"): "worker.drained",
    ("POST", "/v1/fine_tuning/jobs/{job_id}/requeue"): "job.requeued",
    ("POST", "/v1/models"): "model.created",
    ("POST", "/v1/falqon/deletions/models"): "model.deleted",
    ("POST", "/v1/falqon/deletions/jobs"): "job.deleted",
    ("POST", "/v1/models/{model:path}/retention"): "model.pinned",
    ("POST", "/v1/models/{model:path}/exports"): "export.created",
    ("POST", "/v1/models/{model:path}"): "model.updated",
    ("POST", "/v1/organization/group_grants"): "group_grant.updated",
    ("POST", "/v1/organization/users/{user_id}/readmit"): "user.added",
    ("POST", "/v1/projects"): "project.created",
    ("POST", "/v1/projects/{project_id}"): "project.updated",
    ("POST", "/v1/projects/{project_id}/archive"): "project.archived",
    ("POST", "/v1/chat/completions/{completion_id}"): "stored_answer.updated",
    ("POST", "/v1/stored_answers/delete"): "stored_answers.deleted",
    ("POST", "/v1/stored_answers/files"): "file.created",
    ("POST", "/v1/uploads"): "upload.created",
    ("POST", "/v1/uploads/{upload_id}/cancel"): "upload.cancelled",
    ("POST", "/v1/uploads/{upload_id}/complete"): "upload.completed",
    ("POST", "/v1/webhook_endpoints"): "webhook.created",
    ("POST", "/v1/webhook_endpoints/{webhook_endpoint_id}"): "webhook.updated",
    (
        "POST",
        "/v1/webhook_endpoints/{webhook_endpoint_id}/deliveries/{delivery_id}/resend",
    ): "webhook_delivery.resent",
    ("POST", "/v1/webhook_endpoints/{webhook_endpoint_id}/rotate_secret"): "webhook.rotated",
    ("PUT", "/v1/prices"): "prices.updated",
    ("PUT", "/v1/source_tokens/hf"): "source_token.updated",
    ("PUT", "/v1/source_tokens/s3"): "source_token.updated",
}

OURS = {"device": "cpu", "usd_per_device_hour": "0.10", "source": "our own machines"}
OVERRIDES = {"overrides": [OURS]}


@pytest.fixture(scope="module")
def admins(api: Api) -> Iterator[dict[bool, Tenant]]:
    """By whether they administer the whole installation."""
    tenants = {False: Tenant(api, Scope.ADMIN), True: Tenant(api, Scope.ADMIN, DEFAULT_PROJECT_ID)}
    yield tenants
    tenants[True].http.put("/v1/prices", json={"overrides": []})
    for tenant in tenants.values():
        tenant.http.close()


def test_every_route_that_writes_has_its_event_or_a_reason() -> None:
    assert set(CHANGES) == EVENT_TYPES.keys() | {each for each in CHANGES if each[1] in UNAUDITED}


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_a_change_leaves_one_row(admins: dict[bool, Tenant], method: str, path: str) -> None:
    route = ROUTES[method, path]
    owner = admins[False]
    caller = admins[route.by_installation]
    params = route.make(owner) if route.make else {}
    address = path
    for name, value in params.items():
        address = address.replace(f"{{{name}:path}}", value).replace(f"{{{name}}}", value)
    sent = {"json": OVERRIDES} if path == "/v1/prices" else route.send(owner, params)
    answer = caller.http.request(method, address, **sent)
    assert answer.status_code == route.status, answer.text
    rows = rows_of(owner.api.database, answer.headers["x-request-id"])
    if path in UNAUDITED:
        assert rows == []
        return
    (row,) = rows
    assert row.event_type == EVENT_TYPES[method, path]
    assert (row.project_id, row.session_id) == (caller.project_id, None)
    assert row.key_id.removeprefix("key_") in caller.key
    assert row.address == "127.0.0.1"
    assert row.resource_id == resource_of(path, params, answer)


def resource_of(path: str, params: Parameters, answer: httpx.Response) -> str | None:
    """Return the id of what a request changes: the last that its path names, or else what the
    answer says that it made.
    """
    if path in ("/v1/prices", "/v1/stored_answers/delete"):
        return None  # all of them, or those that match
    if "deleted" in answer.json() and path.startswith("/v1/falqon/deletions"):
        (deleted,) = answer.json()["deleted"]
        return str(deleted)
    if path == "/v1/models":
        return str(answer.json()["model"])
    named = [params[name] for name in re.findall(r"\{(\w+)", path)]
    makes_another = path.endswith(("/clone", "/evaluations"))
    return named[-1] if named and not makes_another else str(answer.json()["id"])


def test_a_refused_or_empty_change_leaves_no_audit_log(tenant: Tenant) -> None:
    job = tenant.job()
    cancel = f"/v1/fine_tuning/jobs/{job.id}/cancel"
    first, again = tenant.http.post(cancel), tenant.http.post(cancel)
    refused = tenant.http.post(f"/v1/fine_tuning/jobs/{job.id}/pause")
    unknown = tenant.http.delete("/v1/files/file-none")
    for answer, num_rows in ((first, 1), (again, 0), (refused, 0), (unknown, 0)):
        rows = rows_of(tenant.api.database, answer.headers["x-request-id"])
        assert len(rows) == num_rows


def test_the_official_client_filters_audit_logs_by_actor_type_and_object(
    api: Api, admins: dict[bool, Tenant]
) -> None:
    admin = admins[False]
    writer = Tenant(api, Scope.WRITE, admin.project_id)
    kept, other = writer.job(), writer.job()
    writer.client.fine_tuning.jobs.cancel(other.id)
    client = OpenAI(base_url=admin.client.base_url, api_key="", admin_api_key=admin.key)
    logs = client.admin.organization.audit_logs
    (log,) = logs.list(resource_ids=[kept.id]).data
    assert log.type == "job.created"
    assert log.actor is not None
    assert log.actor.type == "api_key"
    key = log.actor.api_key
    assert key is not None
    assert key.id is not None
    assert key.id.removeprefix("key_") in writer.key
    types = {log.type for log in logs.list(actor_ids=[key.id], limit=100)}
    assert types >= {"file.created", "job.created", "job.cancelled"}
    cancelled = admin.http.get(
        "/v1/organization/audit_logs",
        params={"event_types": ["job.cancelled"], "resource_ids": [other.id, kept.id]},
    ).json()
    assert [row["resource_id"] for row in cancelled["data"]] == [other.id]
    writer.http.close()
