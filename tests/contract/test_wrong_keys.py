"""Guessing API keys, while Redis is away."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.models import Scope
from tests.support.api import Api, Tenant


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    api = Api(f"sqlite:///{tmp_path / 'falqon.db'}", tmp_path, wrong_keys_per_minute=10)
    yield api
    api.stop()


def ask(api: Api, key: str) -> httpx.Response:
    return httpx.get(
        f"{api.url}/v1/models", headers={"authorization": key and f"Bearer {key}"}, verify=False
    )


def test_guessing_becomes_slow_and_disturbs_nobody_who_is_known(api: Api) -> None:
    tenant = Tenant(api)
    other = Tenant(api)
    assert ask(api, tenant.key).status_code == 200
    guesses = [
        ask(api, key)
        for key in [
            "",
            "nonsense",
            tenant.key[:-1],
            *(f"a-guess-of-a-key-{number}" for number in range(20)),
        ]
    ]
    statuses = [answer.status_code for answer in guesses]
    assert statuses[:10] == [401] * 10
    assert set(statuses[12:]) == {429}
    error = guesses[-1].json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert 1 <= int(guesses[-1].headers["retry-after"]) <= 6
    assert ask(api, tenant.key).status_code == 200
    assert ask(api, other.key).status_code == 429, "a right guess cannot be told from a wrong one"
    page = httpx.post(
        f"{api.url}/sign-in",
        data={"key": other.key},
        headers={"sec-fetch-site": "same-origin"},
        verify=False,
    )
    assert page.status_code == 429
    assert "Too many wrong API keys" in page.text
    assert "set-cookie" not in page.headers
    for owner in (tenant, other):
        owner.http.close()


def test_a_key_that_was_revoked_opens_nothing_although_it_is_known(api: Api) -> None:
    tenant = Tenant(api, Scope.ADMIN)
    key = tenant.http.post("/v1/api_keys", json={"name": "short-lived", "scope": "read"}).json()
    assert ask(api, key["secret"]).status_code == 200
    assert tenant.http.delete(f"/v1/api_keys/{key['id']}").status_code == 200
    assert ask(api, key["secret"]).status_code == 401
    tenant.http.close()
