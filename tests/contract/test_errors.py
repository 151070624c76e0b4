from collections.abc import Callable

import httpx
import openai
import pytest

from tests.support.api import Api, Tenant


def error_of(response: httpx.Response) -> dict[str, str | None]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"].startswith("req_")
    return error


@pytest.mark.parametrize("key", ["", "nonsense", "ft_live_abcdefgh_" + "x" * 38, "ft_live_short"])
def test_a_wrong_key_is_refused(api: Api, tenant: Tenant, key: str) -> None:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    for path in ("/v1/models", "/v1/fine_tuning/jobs", "/v1/fine_tuning/jobs/ftjob-x/stream"):
        response = httpx.get(api.url + path, headers=headers, verify=False)
        assert response.status_code == 401
        assert error_of(response)["code"] == "invalid_api_key"
        assert response.headers["x-should-retry"] == "false"


def test_known_addresses_that_are_not_served_say_what_to_use(tenant: Tenant) -> None:
    client = tenant.client.with_options(max_retries=0)
    asks: list[tuple[Callable[[], object], str]] = [
        (lambda: client.conversations.create(), "previous_response_id"),
        (lambda: client.embeddings.create(model="m", input="Hi"), "embedding model"),
        (lambda: client.moderations.create(input="Hi"), "judges text"),
        (lambda: client.images.generate(prompt="Hi"), "text alone"),
        (lambda: client.audio.speech.create(model="m", voice="alloy", input="Hi"), "text alone"),
        (lambda: client.vector_stores.retrieve("vs_1"), "messages"),
    ]
    for ask, advice in asks:
        with pytest.raises(openai.NotFoundError) as caught:
            ask()
        assert caught.value.code == "not_served"
        assert advice in caught.value.message


@pytest.mark.parametrize(("kind", "came"), [(None, "without one"), ("text/plain", "as text/plain")])
def test_a_body_that_is_not_called_json_is_refused_with_the_header_to_send(
    tenant: Tenant, kind: str | None, came: str
) -> None:
    headers = {"content-type": kind} if kind else {}
    answer = tenant.http.post("/v1/chat/completions", content=b'{"model": "m"}', headers=headers)
    assert answer.status_code == 400
    assert error_of(answer)["message"] == (
        f"Send Content-Type: application/json; this body came {came}."
    )


def test_a_slash_at_the_end_of_an_address_changes_nothing(tenant: Tenant) -> None:
    for path in ("/v1/models", f"/v1/models/{tenant.base_model}", "/v1/fine_tuning/jobs"):
        with_slash = tenant.http.get(f"{path}/")
        assert (with_slash.status_code, with_slash.json()) == (200, tenant.http.get(path).json())
