from collections.abc import Iterator

import httpx
import pytest

from tests.support.api import Api


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("hosts")
    api = Api(f"sqlite:///{folder / 'falqon.db'}", folder, hosts=["localhost", "127.0.0.1", "::1", "Tuning.example.com"])
    yield api
    api.stop()


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "tuning.example.com:443"])
def test_it_answers_to_its_names(api: Api, host: str) -> None:
    assert httpx.get(f"{api.url}/healthz", headers={"host": host}, verify=False).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "evil.example:8000", "localhost@evil.example", "[", "", "127.0.0.1.nip.io", "/"],
)
def test_it_answers_to_no_other_name(api: Api, host: str) -> None:
    answer = httpx.get(f"{api.url}/", headers={"host": host}, verify=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_host")
    assert "FALQON_HOSTS" in answer.json()["error"]["message"]
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/nowhere", "/openapi.json", "/static/style.css", "/"])
def test_no_answer_can_become_a_page_of_another_site(api: Api, path: str) -> None:
    headers = httpx.get(api.url + path, verify=False).headers
    assert headers.get_list("x-content-type-options") == ["nosniff"]
    assert headers.get_list("referrer-policy") == ["same-origin"]
    assert len(headers.get_list("content-security-policy")) == 1
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
