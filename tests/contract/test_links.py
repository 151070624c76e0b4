"""Signed addresses of one artifact, for tools that send no headers."""

from collections.abc import Iterator

import httpx
import pytest

from app.artifacts.links import Links
from app.auth.server_secret import server_secret
from app.models import Scope
from tests.contract.access_objects import a_model, without_key, without_model
from tests.support.api import Tenant
from tests.support.waiting import wait_for


@pytest.fixture
def anonymous(tenant: Tenant) -> Iterator[httpx.Client]:
    with httpx.Client(verify=False) as client:
        yield client


def link(tenant: Tenant, model: dict[str, str], key: str | None = None, **body: object) -> str:
    headers = {"authorization": f"Bearer {key or tenant.key}"}
    answer = tenant.http.post(
        f"/v1/models/{model['model']}/links", json={"name": model["name"]} | body, headers=headers
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["url"])


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_signed_link_opens_its_artifact_without_a_key(
    tenant: Tenant, anonymous: httpx.Client
) -> None:
    url = link(tenant, a_model(tenant))
    assert url.endswith("/part%201.bin")
    answer = anonymous.get(url, headers={"range": "bytes=1-2"})
    assert (answer.status_code, answer.content) == (206, b"yt")
    head = anonymous.head(url)
    assert (head.status_code, head.headers["content-length"], head.headers["cache-control"]) == (
        200,
        "5",
        "private, no-cache",
    )


def test_a_signed_link_opens_no_other_artifact(tenant: Tenant, anonymous: httpx.Client) -> None:
    model = a_model(tenant)
    other = a_model(tenant)
    url = link(tenant, model)
    start, token, name = url.rsplit("/", 2)
    assert anonymous.get(f"{start}/{token}/other-name").content == b"bytes", (
        "the name is only for the tool"
    )
    links = Links(server_secret(tenant.api.settings))
    forged = Links("another secret").token(links.read(token)._replace(model_id=other["model"]))
    for bad in (token[:-2], token[:5] + "x" + token[6:], forged, "x", f"{token}.{token}"):
        assert code(anonymous.get(f"{start}/{bad}/{name}")) == (404, "link_not_found")
    assert anonymous.get(url, headers={"authorization": "Bearer nonsense"}).content == b"bytes"
    assert anonymous.post(url).status_code == 405


def test_a_signed_link_expires_and_ends_with_its_model(
    tenant: Tenant, anonymous: httpx.Client
) -> None:
    model = a_model(tenant)
    short = link(tenant, model, expires_in_seconds=1)
    long = link(tenant, model)
    wait_for(lambda: anonymous.get(short).status_code == 404)
    assert anonymous.get(long).status_code == 200
    without_model(tenant, model)
    assert anonymous.get(long).status_code == 404


def test_a_signed_link_ends_with_the_key_that_made_it(
    tenant: Tenant, anonymous: httpx.Client
) -> None:
    key = tenant.new_key(Scope.READ)
    url = link(tenant, a_model(tenant), key)
    assert anonymous.get(url).status_code == 200
    without_key(tenant, {"key_id": f"key_{key.removeprefix('ft_live_').partition('_')[0]}"})
    assert code(anonymous.get(url)) == (404, "link_not_found")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"expires_in_seconds": 0},
        {"expires_in_seconds": 7 * 86400 + 1},
        {"more": 1},
    ],
)
def test_a_bad_link_request_is_refused(tenant: Tenant, body: dict[str, object]) -> None:
    model = a_model(tenant)
    body = body if body == {} else {"name": model["name"]} | body
    assert tenant.http.post(f"/v1/models/{model['model']}/links", json=body).status_code == 400


def test_an_address_with_a_sha256_gives_those_bytes_or_none(tenant: Tenant) -> None:
    model = a_model(tenant)
    path = f"/v1/models/{model['model']}/artifacts"
    (file,) = tenant.http.get(f"{path}/manifest.json").json()["files"]
    answer = tenant.http.get(f"{path}/{file['url']}")
    assert (answer.content, answer.headers["cache-control"]) == (
        b"bytes",
        "private, max-age=31536000, immutable",
    )
    assert answer.headers["repr-digest"] == "sha-256=:J3CJ2RwL308uaGK6fkoHYFEZQx9dE/cm3TUrBvGyBqk=:"
    other = tenant.http.get(f"{path}/{model['name']}", params={"sha256": "0" * 64})
    assert (other.status_code, other.json()["error"]["param"]) == (404, "sha256")
    assert tenant.http.get(f"{path}/{model['name']}", params={"sha256": "x"}).status_code == 400
