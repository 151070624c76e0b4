"""Access to `/metrics`, and what requests leave there."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.models import Scope
from tests.support.api import Api, Tenant, installation_admin
from tests.support.metrics import samples, value
from tests.support.pages import SAME_SITE
from tests.support.service import free_port


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder: Path = tmp_path_factory.mktemp("metrics")
    api = Api(f"sqlite:///{folder / 'falqon.db'}", folder)
    yield api
    api.stop()


def read(api: Api) -> httpx.Response:
    with installation_admin(api) as admin:
        return admin.get("/metrics")


def test_an_admin_of_the_installation_reads(api: Api) -> None:
    answer = read(api)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    names = {name for name, _ in samples(answer.text)}
    assert {"falqon_queue_age_seconds", "falqon_part_ok", "process_open_fds"} <= names


def test_this_machine_needs_a_key_as_everyone(api: Api) -> None:
    """A proxy on it may send nothing that tells of the client behind."""
    assert httpx.get(f"{api.url}/metrics", verify=False).status_code == 401


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


def test_a_key_of_scope_metrics_reads_metrics_and_nothing_else(api: Api) -> None:
    with installation_admin(api) as admin:
        made = admin.post("/v1/api_keys", json={"name": "prometheus", "scope": "metrics"})
        key = made.raise_for_status().json()
        other = admin.post("/v1/projects", json={"name": "acme"}).json()["id"]
        refused = admin.post(
            "/v1/api_keys", json={"name": "p", "scope": "metrics", "project_id": other}
        )
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "scope")
    headers = {"authorization": f"Bearer {key['secret']}"}
    with httpx.Client(base_url=api.url, headers=headers, verify=False) as scraper:
        assert "falqon_part_ok" in scraper.get("/metrics").text
        for path in ("/v1/models", "/v1/files", "/v1/workers", "/v1/usage?start_time=1"):
            assert scraper.get(path).status_code == 403, path
        signed_in = scraper.post("/sign-in", data={"key": key["secret"]}, headers=SAME_SITE)
        assert "falqon_session" not in signed_in.cookies
    stranger = Tenant(api, Scope.METRICS)
    assert stranger.http.get("/metrics").status_code == 403
    stranger.http.close()


def test_an_api_has_a_port_of_its_own_for_prometheus(tmp_path: Path) -> None:
    port = free_port()
    api = Api(f"sqlite:///{tmp_path / 'falqon.db'}", tmp_path, api_metrics_port=port)
    address = f"http://127.0.0.1:{port}"
    text = httpx.get(f"{address}/metrics").text
    names = {name for name, _ in samples(text)}
    assert {"falqon_queue_age_seconds", "falqon_part_ok", "process_open_fds"} <= names
    api.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/metrics")
