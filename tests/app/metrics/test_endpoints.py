"""Who may read `/metrics`, and what requests leave there."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.models import Scope
from tests.support.api import Api, Tenant, installation_admin
from tests.support.metrics import samples, value

ELSEWHERE = {"x-forwarded-for": "203.0.113.9"}  # as a proxy on this machine sends it


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder: Path = tmp_path_factory.mktemp("metrics")
    api = Api(f"sqlite:///{folder / 'falqon.db'}", folder, forwarded_allow_ips="127.0.0.2")
    yield api
    api.stop()


def read(api: Api, **headers: str) -> httpx.Response:
    return httpx.get(f"{api.url}/metrics", headers=headers, verify=False)


def test_this_machine_reads_without_a_key(api: Api) -> None:
    answer = read(api)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    names = {name for name, _ in samples(answer.text)}
    assert {"falqon_queue_age_seconds", "falqon_part_ok", "process_open_fds"} <= names


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "x-real-ip", "via"])
def test_others_need_a_key_that_administers_the_installation(api: Api, header: str) -> None:
    through = {header: "203.0.113.9"}
    assert read(api, **through).status_code == 401
    tenant = Tenant(api)
    of_a_project = f"Bearer {tenant.new_key(Scope.ADMIN)}"
    assert read(api, authorization=of_a_project, **through).status_code == 403
    tenant.http.close()
    with installation_admin(api) as admin:
        assert admin.get("/metrics", headers=through).status_code == 200


def test_requests_are_counted_by_the_template_of_their_route(api: Api) -> None:
    route = {"method": "GET", "route": "/v1/files/{file_id}"}
    before = read(api).text
    for path in ("/v1/files/file-one", "/v1/files/file-two", "/no/such/page"):
        httpx.get(api.url + path, verify=False)
    httpx.request("BREW", f"{api.url}/v1/files/file-one", verify=False)
    text = read(api).text

    def added(name: str, **labels: str) -> float:
        return value(text, name, **labels) - value(before, name, **labels)

    assert added("falqon_http_requests_total", **route, status="401") == 2
    assert added("falqon_http_request_seconds_count", **route) == 2
    assert added("falqon_http_requests_total", method="GET", route="other", status="404") == 1
    assert not {dict(labels).get("method") for _, labels in samples(text)} & {"BREW"}
    assert "file-one" not in text
