"""Whom the service believes when a header says who asks and how."""

import http.client
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from app.base.settings import Settings
from tests.contract.access_objects import a_model
from tests.support.api import Api, Tenant
from tests.support.backend import ROOT
from tests.support.pages import SAME_SITE
from tests.support.service import free_port
from tests.support.waiting import wait_for

NGINX = shutil.which("nginx")
GUESSES_A_MINUTE = 10


def served(folder: Path, proxies: str) -> Iterator[Tenant]:
    api = Api(
        f"sqlite:///{folder / 'falqon.db'}",
        folder,
        wrong_keys_per_minute=GUESSES_A_MINUTE,
        forwarded_allow_ips=proxies,
    )
    tenant = Tenant(api)
    yield tenant
    tenant.http.close()
    api.stop()


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Tenant]:
    """Without a proxy, as `falqon up` serves by default."""
    yield from served(tmp_path, "")


@pytest.fixture
def behind_proxy(tmp_path: Path) -> Iterator[Tenant]:
    """Behind one that asks from this machine."""
    yield from served(tmp_path, "127.0.0.1, 10.0.0.0/8")


def guess(tenant: Tenant, number: int, forwarded_for: str) -> int:
    headers = {"authorization": f"Bearer a-guess-{number}", "x-forwarded-for": forwarded_for}
    return httpx.get(f"{tenant.api.url}/v1/models", headers=headers, verify=False).status_code


def make_link(tenant: Tenant, **headers: str) -> str:
    model = a_model(tenant)
    answer = tenant.http.post(
        f"/v1/models/{model['model']}/links", json={"name": model["name"]}, headers=headers
    )
    return str(answer.json()["url"])


def test_an_address_that_was_made_up_is_not_believed(
    alone: Tenant, caplog: pytest.LogCaptureFixture
) -> None:
    statuses = [guess(alone, number, f"203.0.113.{number}") for number in range(15)]
    assert statuses[:GUESSES_A_MINUTE] == [401] * GUESSES_A_MINUTE
    assert set(statuses[12:]) == {429}
    events = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
    assert {event["address"] for event in events if event["event"] == "request"} == {"127.0.0.1"}


def test_a_forwarded_scheme_of_an_untrusted_peer_is_ignored(alone: Tenant) -> None:
    assert make_link(alone, **{"x-forwarded-proto": "https"}).startswith("http://")
    headers = SAME_SITE | {"x-forwarded-proto": "https"}
    answer = httpx.post(
        f"{alone.api.url}/sign-in", data={"key": alone.key}, headers=headers, verify=False
    )
    assert answer.headers["set-cookie"].startswith("falqon_session=")


def test_a_proxy_that_is_named_tells_who_asks(behind_proxy: Tenant) -> None:
    """Count each user apart, by the last address that asked it, whatever they say themselves."""
    for number in range(12):
        last = guess(behind_proxy, number, f"203.0.113.{number}, 198.51.100.1, 10.1.2.3")
    assert last == 429
    assert guess(behind_proxy, 99, "198.51.100.2, 10.1.2.3") == 401


def test_a_proxy_that_is_named_tells_the_scheme(behind_proxy: Tenant) -> None:
    assert make_link(behind_proxy, **{"x-forwarded-proto": "https"}).startswith("https://")


def test_over_https_the_cookie_belongs_to_this_host_alone(behind_proxy: Tenant) -> None:
    https = {"x-forwarded-proto": "https"} | SAME_SITE
    with httpx.Client(
        base_url=behind_proxy.api.url, follow_redirects=True, verify=False
    ) as browser:
        answer = browser.post(
            "/sign-in", data={"key": behind_proxy.key}, headers=https, follow_redirects=False
        )
        name, _, rest = answer.headers["set-cookie"].partition("=")
        value, *flags = rest.lower().replace(" ", "").split(";")
        assert name == "__Host-falqon_session"
        assert {"path=/", "httponly", "secure", "samesite=lax"} <= set(flags)
        assert not any(flag.startswith("domain") for flag in flags)
        browser.cookies.clear()
        for cookie, is_signed_in in (("__Host-falqon_session", True), ("falqon_session", False)):
            page = browser.get(
                "/", headers=https | {"cookie": f"{cookie}={rest.partition(';')[0]}"}
            )
            assert ("Sign out" in page.text) is is_signed_in
        assert value


@pytest.mark.parametrize(
    "nonsense", ["nginx", "10.0.0.1/8", "127.0.0.1, proxy.example.com", "10.0.0.300"]
)
def test_a_proxy_that_can_never_match_is_refused(nonsense: str) -> None:
    with pytest.raises(ValidationError, match="FORWARDED_ALLOW_IPS"):
        Settings(_env_file=None, forwarded_allow_ips=nonsense)


@pytest.mark.skipif(NGINX is None, reason="needs nginx")
def test_nginx_works_as_documented(behind_proxy: Tenant, tmp_path: Path) -> None:
    """But for TLS, which it only claims to have."""
    port = free_port()
    with (
        nginx(tmp_path, port, behind_proxy.api.url) as url,
        httpx.Client(base_url=url, timeout=20, verify=False) as client,
    ):
        client.headers["authorization"] = f"Bearer {behind_proxy.key}"
        model = a_model(behind_proxy)
        forged = {"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "http"}
        link = client.post(
            f"/v1/models/{model['model']}/links", json={"name": model["name"]}, headers=forged
        )
        assert link.json()["url"].startswith(f"https://127.0.0.1:{port}/")
        page = client.post("/sign-in", data={"key": behind_proxy.key}, headers=SAME_SITE)
        assert "; secure" in page.headers["set-cookie"].lower()
        assert announce(port, "/v1/files", 600 * 2**20) == 413
        assert announce(port, "/v1/worker/jobs/j/attempts/1/objects/model", 600 * 2**20) == 401
        wrong = {"authorization": "Bearer a-guess"}
        statuses = [
            client.get(
                "/v1/models", headers=wrong | {"x-forwarded-for": f"203.0.113.{number}"}
            ).status_code
            for number in range(15)
        ]
        assert (statuses[0], statuses[-1]) == (401, 429), (
            "they come from one address, whatever they say"
        )
        job = behind_proxy.job()
        with client.stream("GET", f"/v1/fine_tuning/jobs/{job.id}/stream") as stream:
            assert next(stream.iter_raw()), "what happens arrives at once"


def announce(port: int, path: str, size: int) -> int:
    """Return the status for a body that is announced, and not sent."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.putrequest("PUT", path)
        connection.putheader("content-length", str(size))
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


@contextmanager
def nginx(folder: Path, port: int, upstream: str) -> Iterator[str]:
    """The server of docs/network.md."""
    (server,) = re.findall(r"```nginx\n(.*?)```", (ROOT / "docs" / "network.md").read_text(), re.S)
    server = server.replace("listen 443 ssl", f"listen 127.0.0.1:{port}").replace(
        "$scheme", "https"
    )
    server = re.sub(r"ssl_certificate.*", "", server).replace("http://127.0.0.1:8000", upstream)
    config = folder / "nginx.conf"
    paths = "".join(
        f"{name}_temp_path {folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.getuid() == 0 else ""
    config.write_text(
        f"daemon off; pid {folder}/pid; {user} events {{}} http {{ access_log off; {paths} "
        f"{server} }}"
    )
    process = subprocess.Popen([str(NGINX), "-c", str(config), "-e", str(folder / "nginx.log")])
    try:
        wait_for(lambda: listens(port), what="nginx listens")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False
