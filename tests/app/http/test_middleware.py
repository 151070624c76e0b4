import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.api import PATIENCE, Api
from tests.support.waiting import wait_for

ORIGIN = "https://chat.example.com"
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("hosts")
    api = Api(
        f"sqlite:///{folder / 'falqon.db'}",
        folder,
        hosts=["Tuning.example.com"],
    )
    yield api
    api.stop()


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "tuning.example.com:443"]
)
def test_the_service_answers_to_its_host_names(api: Api, host: str) -> None:
    assert httpx.get(f"{api.url}/healthz", headers={"host": host}, verify=False).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "evil.example:8000",
        "localhost@evil.example",
        "[",
        "",
        "127.0.0.1.nip.io",
        "/",
    ],
)
def test_the_service_refuses_an_unknown_host_name(api: Api, host: str) -> None:
    answer = httpx.get(f"{api.url}/", headers={"host": host}, verify=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_host")
    assert "FALQON_HOSTS" in answer.json()["error"]["message"]
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "path", ["/healthz", "/v1/models", "/nowhere", "/openapi.json", "/static/style.css", "/"]
)
def test_no_answer_can_become_a_page_of_another_site(api: Api, path: str) -> None:
    headers = httpx.get(api.url + path, timeout=PATIENCE, verify=False).headers
    assert headers.get_list("x-content-type-options") == ["nosniff"]
    assert headers.get_list("referrer-policy") == ["same-origin"]
    assert len(headers.get_list("content-security-policy")) == 1
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_a_long_path_is_cut_in_the_log(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    path = "/" + "a" * 60_000
    method = "B" * 5_000
    for request in (f"GET {path}", f"{method} /b"):
        host, port = api.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(
                f"{request} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode()
            )
            assert b" 404 " in b"".join(iter(lambda: connection.recv(65_536), b""))

    def lines() -> list[Any]:
        events = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
        # The line of the request before this test is written after its answer, and may come late.
        return [event for event in events if event["event"] == "request" and event["status"] == 404]

    wait_for(lambda: len(lines()) == 2)
    assert [(line["path"], line["method"]) for line in lines()] == [
        ("/" + "a" * 299 + "…", "GET"),
        ("/b", "B" * 300 + "…"),
    ]


def test_pages_of_other_sites_call_the_api_only_where_a_setting_names_them(
    api: Api, tmp_path: Path
) -> None:
    """`api`: without the setting."""
    url = "/v1/chat/completions"
    preflight = httpx.options(
        f"{api.url}{url}", headers=PREFLIGHT | {"origin": ORIGIN}, verify=False
    )
    assert preflight.status_code == 405
    assert "access-control-allow-origin" not in preflight.headers
    open_api = Api(f"sqlite:///{tmp_path / 'falqon.db'}", tmp_path, allowed_origins=[ORIGIN])
    try:
        with httpx.Client(base_url=open_api.url, verify=False) as client:
            named = client.options(url, headers=PREFLIGHT | {"origin": ORIGIN})
            other = client.options(url, headers=PREFLIGHT | {"origin": "https://evil.example"})
            answer = client.get("/v1/models", headers={"origin": ORIGIN})
    finally:
        open_api.stop()
    assert named.status_code == 200
    assert named.headers["access-control-allow-origin"] == ORIGIN
    assert "authorization" in named.headers["access-control-allow-headers"]
    assert other.status_code == 400
    assert "access-control-allow-origin" not in other.headers
    assert answer.status_code == 401, "an error can be read, too"
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-credentials" not in answer.headers
