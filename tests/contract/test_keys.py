import time
from collections.abc import Iterator

import httpx
import openai
import pytest
from sqlalchemy import select, update

from app.base.database import now_plus
from app.models import ApiKey, Scope
from app.notifier.wakeups import POLL_SECONDS
from tests.support.api import Api, Tenant, installation_admin


@pytest.fixture
def admin(api: Api) -> Iterator[Tenant]:
    tenant = Tenant(api, Scope.ADMIN)
    yield tenant
    tenant.http.close()


def code_of(response: httpx.Response) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


def row(tenant: Tenant, key_id: str) -> ApiKey:
    with tenant.api.database.read() as session:
        return session.scalars(select(ApiKey).where(ApiKey.id == key_id)).one()


def test_a_key_is_shown_once_and_kept_as_a_hash(admin: Tenant) -> None:
    answer = admin.http.post("/v1/api_keys", json={"name": "laptop", "scope": "write"})
    assert answer.headers["cache-control"] == "no-store"
    created = answer.json()
    secret = created.pop("secret")
    assert secret.startswith(f"ft_live_{created['id'].removeprefix('key_')}_")
    assert created["object"] == "api_key"
    assert (created["name"], created["scope"], created["project_id"]) == (
        "laptop",
        "write",
        admin.project_id,
    )
    assert (created["expires_at"], created["last_used_at"]) == (None, None)
    assert admin.http.get(f"/v1/api_keys/{created['id']}").json() == created
    listed = admin.http.get("/v1/api_keys")
    assert created in listed.json()["data"]
    assert secret not in listed.text
    stored = row(admin, created["id"])
    assert secret not in {str(value) for value in vars(stored).values()}
    assert admin.client_with(secret).models.list().data


def test_a_revoked_key_opens_nothing_and_is_gone(admin: Tenant) -> None:
    created = admin.http.post("/v1/api_keys", json={"name": "lost", "scope": "read"}).json()
    client = admin.client_with(created["secret"])
    client.models.list()
    url = f"/v1/api_keys/{created['id']}"
    assert admin.http.delete(url).json() == {
        "id": created["id"],
        "object": "api_key",
        "deleted": True,
    }
    with pytest.raises(openai.AuthenticationError) as caught:
        client.models.list()
    assert caught.value.code == "invalid_api_key"
    assert (
        code_of(admin.http.delete(url))
        == code_of(admin.http.get(url))
        == (404, "api_key_not_found", "key_id")
    )
    assert created["id"] not in admin.http.get("/v1/api_keys").text


def test_an_open_stream_ends_when_its_key_is_revoked(admin: Tenant) -> None:
    assert POLL_SECONDS * 2 < 5
    job = admin.job()
    created = admin.http.post("/v1/api_keys", json={"name": "viewer", "scope": "read"}).json()
    headers = {"authorization": f"Bearer {created['secret']}"}
    url = f"{admin.api.url}/v1/fine_tuning/jobs/{job.id}/stream"
    with httpx.stream("GET", url, headers=headers, verify=False, timeout=10) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("id: 1")
        admin.http.delete(f"/v1/api_keys/{created['id']}")
        assert "[DONE]" not in "".join(lines)


def test_a_key_expires(admin: Tenant) -> None:
    later = int(time.time()) + 3600
    created = admin.http.post(
        "/v1/api_keys", json={"name": "hour", "scope": "read", "expires_at": later}
    ).json()
    assert created["expires_at"] == later
    client = admin.client_with(created["secret"])
    client.models.list()
    with admin.api.database.transaction() as session:
        session.execute(
            update(ApiKey).where(ApiKey.id == created["id"]).values(expires_at=now_plus(-1))
        )
    with pytest.raises(openai.AuthenticationError) as caught:
        client.models.list()
    assert caught.value.code == "expired_api_key"


def test_use_is_noted_to_the_minute(admin: Tenant) -> None:
    created = admin.http.post("/v1/api_keys", json={"name": "used", "scope": "read"}).json()
    client = admin.client_with(created["secret"])
    client.models.list()
    first = row(admin, created["id"]).last_used_at
    assert first is not None
    client.models.list()
    assert row(admin, created["id"]).last_used_at == first
    with admin.api.database.transaction() as session:
        session.execute(
            update(ApiKey).where(ApiKey.id == created["id"]).values(last_used_at=now_plus(-61))
        )
    client.models.list()
    again = row(admin, created["id"]).last_used_at
    assert again is not None
    assert again >= first


def test_keys_are_listed_in_pages_newest_first(admin: Tenant) -> None:
    created = [
        admin.http.post("/v1/api_keys", json={"name": f"k{i}", "scope": "read"}).json()["id"]
        for i in range(4)
    ]
    listed: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = admin.http.get("/v1/api_keys", params={"limit": 2} | after).json()
        listed += [key["id"] for key in page["data"]]
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert listed[:4] == created[::-1]
    assert len(listed) == 5  # and the tenant's own


def test_an_admin_rules_over_the_keys_of_their_project_only(
    admin: Tenant, stranger: Tenant
) -> None:
    body = {"name": "k", "scope": "read", "project_id": stranger.project_id}
    assert code_of(admin.http.post("/v1/api_keys", json=body)) == (
        400,
        "project_not_found",
        "project_id",
    )
    assert code_of(admin.http.get("/v1/api_keys", params={"project_id": stranger.project_id}))[
        :2
    ] == (404, "project_not_found")
    with installation_admin(admin.api) as everywhere:
        created = everywhere.post("/v1/api_keys", json=body).json()
        assert created["project_id"] == stranger.project_id
        listed = everywhere.get("/v1/api_keys", params={"project_id": stranger.project_id}).json()[
            "data"
        ]
        assert {key["project_id"] for key in listed} == {stranger.project_id}
        assert code_of(admin.http.delete(f"/v1/api_keys/{created['id']}"))[0] == 404
        assert everywhere.delete(f"/v1/api_keys/{created['id']}").status_code == 200


def test_a_key_cannot_revoke_itself(admin: Tenant) -> None:
    (mine,) = admin.http.get("/v1/api_keys").json()["data"]
    assert code_of(admin.http.delete(f"/v1/api_keys/{mine['id']}"))[:2] == (400, "key_in_use")


BAD = [
    ({"scope": "read"}, "missing_required_parameter", "name"),
    ({"name": "k"}, "missing_required_parameter", "scope"),
    ({"name": "k", "scope": "root"}, "invalid_value", "scope"),
    ({"name": "k", "scope": "read", "expires_at": 1}, "invalid_value", "expires_at"),
    ({"name": "k", "scope": "read", "expires_at": 2**60}, "invalid_value", "expires_at"),
    ({"name": "k", "scope": "read", "expires_at": "2030-01-01"}, "invalid_value", "expires_at"),
    ({"name": "k", "scope": "read", "secret": "mine"}, "unknown_parameter", "secret"),
    ({"name": "k", "scope": "read", "project_id": "proj_none"}, "project_not_found", "project_id"),
]


@pytest.mark.parametrize(("body", "code", "param"), BAD)
def test_a_bad_request_says_what_is_wrong(
    admin: Tenant, body: dict[str, object], code: str, param: str
) -> None:
    before = admin.num_rows(ApiKey)
    assert code_of(admin.http.post("/v1/api_keys", json=body)) == (400, code, param)
    assert admin.num_rows(ApiKey) == before
