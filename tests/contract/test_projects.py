from collections.abc import Iterator

import httpx
import pytest

from app.models import DEFAULT_PROJECT_ID, Scope
from tests.support.api import Api, Tenant, installation_admin


@pytest.fixture
def admin(api: Api) -> Iterator[httpx.Client]:
    with installation_admin(api) as client:
        yield client


@pytest.fixture
def own_admin(api: Api) -> Iterator[Tenant]:
    """Who administers their own project only."""
    tenant = Tenant(api, Scope.ADMIN)
    yield tenant
    tenant.http.close()


def code_of(response: httpx.Response) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


def test_a_project_from_creation_to_archive(api: Api, admin: httpx.Client) -> None:
    created = admin.post(
        "/v1/projects", json={"name": " research ", "max_live_jobs": 2, "weight": 3}
    ).json()
    assert created["id"].startswith("proj_")
    assert created["object"] == "project"
    assert (created["name"], created["status"], created["archived_at"]) == (
        "research",
        "active",
        None,
    )
    assert (
        created["weight"],
        created["max_live_jobs"],
        created["max_storage_bytes"],
        created["max_device_hours"],
    ) == (3, 2, None, None)
    nothing = dict.fromkeys(("files", "models", "checkpoints", "uploads"), 0)
    assert created["usage"] == {
        "live_jobs": 0,
        "storage_bytes": 0,
        "storage_by_kind": nothing,
        "device_hours": 0.0,
    }
    url = f"/v1/projects/{created['id']}"
    assert admin.get(url).json() == created

    assert created["evaluate"] is True
    limits = {"max_live_jobs": None, "max_device_hours": 1.5, "guaranteed_gpus": 16}
    changes = {"name": "science", "evaluate": False, "serve_as": "shared"} | limits
    assert admin.post(url, json=changes).json() == created | changes

    key = admin.post(
        "/v1/api_keys", json={"name": "k", "scope": "write", "project_id": created["id"]}
    ).json()
    headers = {"authorization": f"Bearer {key['secret']}"}
    assert httpx.get(f"{api.url}/v1/files", headers=headers, verify=False).status_code == 200
    archived = admin.post(f"{url}/archive").json()
    assert archived["status"] == "archived"
    assert admin.post(f"{url}/archive").json() == archived
    assert admin.get(url).json()["archived_at"] == archived["archived_at"]
    refused = httpx.get(f"{api.url}/v1/files", headers=headers, verify=False)
    assert code_of(refused)[:2] == (401, "project_archived")
    assert code_of(admin.post(url, json={"name": "again"}))[:2] == (400, "project_archived")
    new_key = {"name": "k", "scope": "write", "project_id": created["id"]}
    assert code_of(admin.post("/v1/api_keys", json=new_key))[:2] == (400, "project_archived")


def test_usage_counts_live_jobs_and_stored_bytes(admin: httpx.Client, tenant: Tenant) -> None:
    job = tenant.job()
    usage = admin.get(f"/v1/projects/{tenant.project_id}").json()["usage"]
    assert usage["live_jobs"] == 1
    assert usage["storage_bytes"] == tenant.client.files.retrieve(job.training_file).bytes
    assert usage["storage_by_kind"]["files"] == usage["storage_bytes"]
    tenant.client.fine_tuning.jobs.cancel(job.id)
    tenant.client.files.delete(job.training_file)
    usage = admin.get(f"/v1/projects/{tenant.project_id}").json()["usage"]
    assert (usage["live_jobs"], usage["storage_bytes"]) == (0, 0)


def test_projects_are_listed_in_pages(admin: httpx.Client) -> None:
    created = [admin.post("/v1/projects", json={"name": f"p{i}"}).json()["id"] for i in range(3)]
    listed: list[str] = []
    page = admin.get("/v1/projects", params={"limit": 2}).json()
    while len(listed) < 4:
        listed += [project["id"] for project in page["data"]]
        page = admin.get("/v1/projects", params={"limit": 2, "after": page["last_id"]}).json()
    assert listed[:4] == [DEFAULT_PROJECT_ID, *created[::-1]]


def test_a_project_in_use_cannot_be_archived(admin: httpx.Client, tenant: Tenant) -> None:
    job = tenant.job()
    assert code_of(admin.post(f"/v1/projects/{tenant.project_id}/archive"))[:2] == (
        400,
        "project_in_use",
    )
    tenant.client.fine_tuning.jobs.cancel(job.id)
    assert admin.post(f"/v1/projects/{tenant.project_id}/archive").status_code == 200
    assert code_of(admin.post(f"/v1/projects/{DEFAULT_PROJECT_ID}/archive"))[:2] == (
        400,
        "default_project",
    )


def test_an_admin_of_a_project_sees_and_renames_that_project_only(
    own_admin: Tenant, stranger: Tenant
) -> None:
    http = own_admin.http
    mine = own_admin.project_id
    assert [project["id"] for project in http.get("/v1/projects").json()["data"]] == [mine]
    assert http.post(f"/v1/projects/{mine}", json={"name": "ours"}).json()["name"] == "ours"
    assert code_of(http.post(f"/v1/projects/{mine}", json={"max_live_jobs": None})) == (
        403,
        "insufficient_permissions",
        "max_live_jobs",
    )
    assert code_of(http.post("/v1/projects", json={"name": "more"}))[:2] == (
        403,
        "insufficient_permissions",
    )
    assert code_of(http.post(f"/v1/projects/{mine}/archive"))[:2] == (
        403,
        "insufficient_permissions",
    )
    assert code_of(http.post(f"/v1/projects/{stranger.project_id}", json={"name": "x"}))[:2] == (
        404,
        "project_not_found",
    )


BAD = [
    ({}, "missing_required_parameter", "name"),
    ({"name": ""}, "invalid_value", "name"),
    ({"name": "   "}, "invalid_value", "name"),
    ({"name": "x" * 101}, "invalid_value", "name"),
    ({"name": "a\x00b"}, "invalid_value", "name"),
    ({"name": 1}, "invalid_value", "name"),
    ({"name": "a", "id": "proj_mine"}, "unknown_parameter", "id"),
    ({"name": "a", "virtual_time": 0}, "unknown_parameter", "virtual_time"),
    ({"name": "a", "weight": 0}, "invalid_value", "weight"),
    ({"name": "a", "weight": "1"}, "invalid_value", "weight"),
    ({"name": "a", "weight": None}, "invalid_value", "weight"),
    ({"name": "a", "max_live_jobs": -1}, "invalid_value", "max_live_jobs"),
    ({"name": "a", "max_storage_bytes": 2**63}, "invalid_value", "max_storage_bytes"),
    ({"name": "a", "requests_per_minute": 0}, "invalid_value", "requests_per_minute"),
]


@pytest.mark.parametrize(("body", "code", "param"), BAD)
def test_a_bad_request_says_what_is_wrong(
    admin: httpx.Client, body: dict[str, object], code: str, param: str
) -> None:
    assert code_of(admin.post("/v1/projects", json=body)) == (400, code, param)
    if body:
        assert code_of(admin.post(f"/v1/projects/{DEFAULT_PROJECT_ID}", json=body)) == (
            400,
            code,
            param,
        )
