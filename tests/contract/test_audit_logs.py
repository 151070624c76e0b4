"""Who changed what: a row for each request that changed something, of the same transaction."""

from collections.abc import Iterator

import httpx
import pytest
from openai import OpenAI

from app.http.audited import SAFE, UNAUDITED, UnnamedChange, event_type_of
from app.http.routes import ApiRoute
from app.models import DEFAULT_PROJECT_ID, Scope
from tests.contract.access_routes import ROUTES
from tests.support.api import Api, Tenant
from tests.support.audit import rows_of

CHANGES = [(method, path) for method, path in sorted(ROUTES) if method not in SAFE]

OURS = {"device": "cpu", "usd_per_device_hour": "0.10", "source": "our own machines"}
OVERRIDES = {"overrides": [OURS]}


@pytest.fixture(scope="module")
def admins(api: Api) -> Iterator[dict[bool, Tenant]]:
    """By whether they administer the whole installation."""
    tenants = {
        False: Tenant(api, Scope.ADMIN),
        True: Tenant(api, Scope.ADMIN, DEFAULT_PROJECT_ID),
    }
    yield tenants
    tenants[True].http.put("/v1/prices", json={"overrides": []})
    for tenant in tenants.values():
        tenant.http.close()


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
    assert row.event_type == event_type_of(method, path)
    assert (row.project_id, row.session_id) == (caller.project_id, None)
    assert row.key_id.removeprefix("key_") in caller.key
    assert row.address == "127.0.0.1"
    if row.resource_id is None:
        assert path.startswith(("/v1/prices", "/v1/source_tokens", "/v1/models")), path
    elif not row.event_type.endswith((".created", ".updated")):
        assert row.resource_id in params.values()


def test_what_is_created_is_named(tenant: Tenant) -> None:
    answer = tenant.http.post(
        "/v1/fine_tuning/jobs", json={"model": tenant.base_model, "training_file": tenant.upload()}
    )
    (row,) = rows_of(tenant.api.database, answer.headers["x-request-id"])
    assert (row.event_type, row.resource_id) == ("job.created", answer.json()["id"])


def test_what_is_refused_or_changes_nothing_leaves_none(tenant: Tenant) -> None:
    job = tenant.job()
    cancel = f"/v1/fine_tuning/jobs/{job.id}/cancel"
    first, again = tenant.http.post(cancel), tenant.http.post(cancel)
    refused = tenant.http.post(f"/v1/fine_tuning/jobs/{job.id}/pause")
    unknown = tenant.http.delete("/v1/files/file-none")
    for answer, num_rows in ((first, 1), (again, 0), (refused, 0), (unknown, 0)):
        rows = rows_of(tenant.api.database, answer.headers["x-request-id"])
        assert len(rows) == num_rows


def test_the_official_client_reads_them_by_actor_type_and_object(
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


@pytest.mark.parametrize("path", ["/v1/files/{file_id}/paint", "/v1/paintings"])
def test_a_route_that_has_no_name_stops_the_api_from_starting(path: str) -> None:
    with pytest.raises(UnnamedChange, match=f"POST {path}.*'paint"):
        ApiRoute(path, lambda: None, methods=["POST"])


def test_only_admins_read_them(tenant: Tenant) -> None:
    answer: httpx.Response = tenant.http.get("/v1/organization/audit_logs")
    assert answer.status_code == 403
