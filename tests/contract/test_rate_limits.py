from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from app.auth import rate_limit
from app.models import Scope
from tests.support.api import Api, Tenant
from tests.support.valkey import Valkey

PER_MINUTE = 60


@pytest.fixture
def limited(valkey: Valkey, tmp_path: Path) -> Iterator[Api]:
    api = Api(
        f"sqlite:///{tmp_path / 'falqon.db'}",
        tmp_path,
        redis_url=valkey.settings.resolved_redis_url,
        requests_per_minute=PER_MINUTE,
    )
    yield api
    api.stop()


@pytest.fixture
def user(limited: Api) -> Iterator[Tenant]:
    tenant = Tenant(limited)
    yield tenant
    tenant.http.close()


def spend(tenant: Tenant, count: int) -> None:
    for _ in range(count):
        assert tenant.http.get("/v1/models").status_code == 200


def test_every_answer_says_what_is_left(user: Tenant) -> None:
    user.limit(requests_per_minute=6)
    first = user.http.get("/v1/models")
    second = user.http.get("/v1/files/file-none")
    assert (first.status_code, second.status_code) == (200, 404)
    for answer in (first, second):
        assert answer.headers["x-ratelimit-limit-requests"] == "6"
        assert answer.headers["x-request-id"].startswith("req_")
    assert first.headers["x-ratelimit-remaining-requests"] == "5"
    assert second.headers["x-ratelimit-remaining-requests"] == "4"
    assert 10 < float(second.headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 20


def test_a_limited_request_is_told_when_to_retry(user: Tenant) -> None:
    user.limit(requests_per_minute=3)
    spend(user, 3)
    with pytest.raises(openai.RateLimitError) as caught:
        user.client.with_options(max_retries=0).models.list()
    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "rate_limit_error")
    headers = caught.value.response.headers
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert 1 <= int(headers["retry-after"]) <= 20
    assert int(headers["retry-after-ms"]) <= 20_000
    assert "x-should-retry" not in headers
    other = Tenant(user.api)  # whose project has no limit of its own
    spend(other, 4)
    other.http.close()
    # each key has a bucket of its own
    assert user.client_with(user.new_key(Scope.READ)).models.list().data


def test_requests_are_not_limited_while_redis_is_away(
    user: Tenant, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limit, "RETRY_SECONDS", 0.0)
    user.limit(requests_per_minute=1)
    spend(user, 1)
    assert user.http.get("/v1/models").status_code == 429
    valkey.kill()
    answer = user.http.get("/v1/models")
    assert answer.status_code == 200
    assert "x-ratelimit-limit-requests" not in answer.headers
    valkey.start()
    spend(user, 1)
    assert user.http.get("/v1/models").status_code == 429


def test_a_wrong_key_costs_nobody_anything(user: Tenant, valkey: Valkey) -> None:
    assert (
        user.http.get("/v1/models", headers={"authorization": f"Bearer {user.key}x"}).status_code
        == 401
    )
    assert user.http.get("/v1/models").headers["x-ratelimit-remaining-requests"] == str(
        PER_MINUTE - 1
    )
