import json
import os
import re
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.client import local
from app.client.api import Api
from app.client.connection import Connection, resolve_here
from app.client.errors import NoConnection
from app.client.local import LocalService
from tests.app.client.conftest import Falqon
from tests.support.local_server import LocalServer, QuietHandler, RefusingProxy, serving_by
from tests.support.proxy import Proxy
from tests.support.service import KEY, Service
from tests.support.tls import AUTHORITY, make_certificate

NO_PROXIES = dict.fromkeys(
    name
    for word in ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    for name in (word, word.upper())
)
UNUSABLE_PROXIES = [
    ("ALL_PROXY", "socks5://127.0.0.1:1"),
    ("all_proxy", "socks://127.0.0.1:1"),
    ("http_proxy", "http://127.0.0.1:port"),
    ("NO_PROXY", "fd00::/8"),
]


class _IsNoService(QuietHandler):
    """Knows nothing; leads in a circle below /again, calls zipped what is not below /zipped, and
    describes another API.
    """

    def do_GET(self) -> None:
        if self.path == "/openapi.json":
            self.send(200, b'{"paths": {}}')
        elif self.path.startswith("/again"):
            self.send(302, location=self.path)
        elif self.path.startswith("/zipped"):
            self.send(200, b"{}", content_encoding="gzip")
        else:
            self.send(404, b"<h1>Not found</h1>", content_type="text/html")

    def do_HEAD(self) -> None:
        self.send(200)


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """Something that speaks HTTP and is no service of ours."""
    with serving_by(_IsNoService) as url:
        yield url


class _SendsElsewhere(QuietHandler):
    """Redirects to a port of this machine at which nobody listens, as to a store out of reach."""

    def do_GET(self) -> None:
        self.send(302, location="http://127.0.0.1:1/bucket/key")


def test_a_store_that_cannot_be_reached_is_named() -> None:
    with serving_by(_SendsElsewhere) as url:
        address = f"{url}/v1"
        api = Api(Connection(address, "key"))
        with pytest.raises(NoConnection) as refused:
            api.get("/files")
        api.close()
    assert str(refused.value).startswith(f"http://127.0.0.1:1, the object store to which {address}")


@pytest.fixture
def refusing_proxy() -> Iterator[str]:
    with serving_by(RefusingProxy) as url:
        yield url


def test_a_service_of_this_machine_is_reached_without_a_proxy(
    falqon: Falqon, service: Service, refusing_proxy: str
) -> None:
    usable = [(name, refusing_proxy) for name in ("http_proxy", "ALL_PROXY")]
    addresses = [
        service.url,
        *(f"http://{host}:{service.port}" for host in ("localhost", "127.0.0.2", "0.0.0.0")),
    ]
    for name, value in (*usable, *UNUSABLE_PROXIES):
        environment = NO_PROXIES | {name: value}
        listed = falqon("models", "list", env=environment)
        assert listed.exit_code == 0, (name, value, listed.stderr)
        for address in addresses:
            # The service listens at one address, and knows one name: no answer is the proxy's.
            asked = falqon(
                "models", "list", "--base-url", address, "--api-key", KEY, env=environment
            )
            # Of its own: the id of a request may hold these digits.
            assert not re.search(r"\b403\b", asked.stderr), (name, address)
            assert "proxy" not in asked.stderr, (name, address)


def test_other_machines_are_reached_through_the_proxy(falqon: Falqon, refusing_proxy: str) -> None:
    environment = NO_PROXIES | {"http_proxy": refusing_proxy}
    elsewhere = ("--base-url", "http://service.invalid", "--api-key", "x")
    done = falqon("models", "list", *elsewhere, env=environment)
    assert done.exit_code == 4
    assert "http://service.invalid/v1/models answered 403" in done.stderr


def test_a_store_to_which_this_machine_sends_is_reached_through_the_proxy(
    falqon: Falqon, refusing_proxy: str
) -> None:
    class SendsToAStore(QuietHandler):
        def do_GET(self) -> None:
            self.send(302, location="http://store.invalid/bucket/key")

    with serving_by(SendsToAStore) as url:
        there = ("models", "list", "--base-url", url, "--api-key", "x")
        through = falqon(*there, env=NO_PROXIES | {"http_proxy": refusing_proxy})
        assert "http://store.invalid/bucket/key answered 403" in through.stderr
        unusable = falqon(*there, env=NO_PROXIES | {"all_proxy": "socks://127.0.0.1:1"})
        assert unusable.exit_code == 2
        assert "all_proxy" in unusable.stderr


@pytest.mark.parametrize(("name", "value"), UNUSABLE_PROXIES)
def test_proxy_settings_that_cannot_be_used_are_told(falqon: Falqon, name: str, value: str) -> None:
    elsewhere = ("--base-url", "http://service.invalid", "--api-key", "x")
    done = falqon("models", "list", *elsewhere, env=NO_PROXIES | {name: value})
    assert done.exit_code == 2
    told, advice = done.stderr.splitlines()
    assert told.startswith(f"Error: The proxy settings of {name} cannot be used: ")
    assert advice == "Name an HTTP proxy, like http://host:3128, or unset the variable."


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_certificates_that_cannot_be_read_are_told(
    falqon: Falqon, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "authority.pem"
    if content is not None:
        path.write_bytes(content)
    elsewhere = ("--base-url", "https://service.invalid", "--api-key", "x")
    done = falqon("models", "list", *elsewhere, env=NO_PROXIES | {"SSL_CERT_FILE": str(path)})
    assert done.exit_code == 2
    told, advice = done.stderr.splitlines()
    assert told.startswith(f"Error: The certificates of SSL_CERT_FILE ({path}) cannot be read: ")
    assert advice == "Name a file of certificates in PEM, or unset the variable."


def test_certificates_of_the_environment_hold_for_this_machine(
    falqon: Falqon, tmp_path: Path, refusing_proxy: str
) -> None:
    certificate = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    server = LocalServer(_IsNoService, context)
    there = ("--base-url", f"https://localhost:{server.port}", "--api-key", "x")
    trusted = NO_PROXIES | {"SSL_CERT_FILE": str(tmp_path / AUTHORITY)}
    try:
        for proxy in ({"https_proxy": refusing_proxy}, {"all_proxy": "socks://127.0.0.1:1"}):
            answered = falqon("models", "list", *there, env=trusted | proxy)
            assert "/v1/models answered 404" in answered.stderr
            refused = falqon("models", "list", *there, env=NO_PROXIES | proxy)
            assert "CERTIFICATE_VERIFY_FAILED" in refused.stderr
    finally:
        server.close()


def test_beside_the_service_nothing_needs_to_be_said(falqon: Falqon, service: Service) -> None:
    assert "falqon-tiny" in falqon("models", "list").stdout
    assert (service.folder / "client.json").stat().st_mode & 0o777 == 0o600


def test_away_from_the_service_its_folder_can_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FALQON_DATA_DIR", str(tmp_path))
    with pytest.raises(NoConnection) as refused:
        resolve_here(None, None)
    assert "set FALQON_DATA_DIR to the folder" in refused.value.hint


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
@pytest.mark.parametrize("prefix", ["FALQON", "OPENAI"])
def test_elsewhere_address_and_key_come_from_the_environment(
    falqon: Falqon, service: Service, tmp_path: Path, prefix: str, suffix: str
) -> None:
    variables = {
        "FALQON_DATA_DIR": str(tmp_path),
        f"{prefix}_BASE_URL": service.url + suffix,
        f"{prefix}_API_KEY": KEY,
    }
    done = falqon("models", "list", "--json", env=variables)
    assert json.loads(done.stdout)["data"][0]["id"] == "falqon-tiny"


def test_options_come_before_variables(falqon: Falqon, service: Service, tmp_path: Path) -> None:
    variables = {
        "FALQON_DATA_DIR": str(tmp_path),
        "FALQON_BASE_URL": "http://127.0.0.1:1",
        "FALQON_API_KEY": "wrong",
    }
    assert (
        falqon(
            "models", "list", "--base-url", service.url, "--api-key", KEY, env=variables
        ).exit_code
        == 0
    )


def test_a_key_for_openai_is_not_offered_to_this_machine(falqon: Falqon) -> None:
    assert falqon("models", "list", env={"OPENAI_API_KEY": "sk-someone-elses"}).exit_code == 0


def test_the_key_of_this_machine_goes_nowhere_else(falqon: Falqon) -> None:
    done = falqon("models", "list", "--base-url", "http://127.0.0.1:1")
    assert done.exit_code == 4
    assert "There is no API key for http://127.0.0.1:1" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (
            ["--base-url", "http://127.0.0.1:1", "--api-key", "x"],
            4,
            "http://127.0.0.1:1/v1 cannot be reached",
        ),
        (["--base-url", "{service}", "--api-key", "wrong"], 4, "refuses the API key"),
        (["--base-url", "{elsewhere}", "--api-key", "x"], 4, "not as this service would"),
        *(
            (["--base-url", address, "--api-key", "x"], 2, "is not the address of a service")
            for address in ("ftp://host", "http://[::1", "http://host:abc", "http://.", "http://:1")
        ),
        (["--base-url", "{service}", "--api-key", "ключ"], 2, "no key has"),
        (["--base-url", "{service}", "--api-key", "two\nlines"], 2, "no key has"),
        (["--base-url", "{elsewhere}/again", "--api-key", "x"], 4, "Exceeded maximum"),
        (["--base-url", "{elsewhere}/zipped", "--api-key", "x"], 4, "decompressing"),
    ],
)
def test_an_unreachable_or_foreign_service_is_reported(
    falqon: Falqon, service: Service, elsewhere: str, arguments: list[str], code: int, reason: str
) -> None:
    done = falqon(
        "models",
        "list",
        *(argument.format(service=service.url, elsewhere=elsewhere) for argument in arguments),
    )
    assert done.exit_code == code
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 2  # what is wrong, and what to do


def test_an_api_without_job_settings_is_refused(falqon: Falqon, elsewhere: str) -> None:
    done = falqon("jobs", "fields", "--base-url", elsewhere, "--api-key", "x")
    assert done.exit_code == 4
    assert "describes no settings of a job." in done.stderr


def test_an_object_without_an_etag_is_of_another_service(elsewhere: str) -> None:
    api = Api(Connection(elsewhere, "key"))
    with pytest.raises(NoConnection, match="names no sha256"):
        api.sha256_of("/")
    api.close()


def test_whitespace_around_a_key_is_removed(falqon: Falqon, service: Service) -> None:
    """As a file with lines of another system leaves it."""
    variables = {"FALQON_BASE_URL": service.url, "FALQON_API_KEY": f"{KEY}\r\n"}
    assert falqon("models", "list", env=variables).exit_code == 0


def test_a_client_without_a_service_lists_the_ways_to_connect(
    falqon: Falqon, tmp_path: Path
) -> None:
    done = falqon("models", "list", env={"FALQON_DATA_DIR": str(tmp_path)})
    assert done.exit_code == 4
    assert "falqon up" in done.stderr
    assert "FALQON_BASE_URL" in done.stderr


def test_a_key_file_that_other_users_can_read_is_not_used(
    falqon: Falqon, service: Service, tmp_path: Path
) -> None:
    local.write(tmp_path, LocalService(service.url, KEY))
    assert falqon("models", "list", env={"FALQON_DATA_DIR": str(tmp_path)}).exit_code == 0
    (tmp_path / "client.json").chmod(0o644)
    done = falqon("models", "list", env={"FALQON_DATA_DIR": str(tmp_path)})
    assert done.exit_code == 4
    assert "can be read by others" in done.stderr


@pytest.mark.parametrize("content", [b'{"base_url": ', b"\xff\x00\xfe"])
def test_a_damaged_file_of_this_machine_is_told(
    falqon: Falqon, tmp_path: Path, content: bytes
) -> None:
    with open(os.open(tmp_path / "client.json", os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(content)
    done = falqon("models", "list", env={"FALQON_DATA_DIR": str(tmp_path)})
    assert done.exit_code == 4
    assert "is damaged" in done.stderr


def test_a_lost_answer_is_asked_for_again_with_the_same_key(
    falqon: Falqon, service: Service, fake_file: Callable[..., Path]
) -> None:
    create = "POST /v1/fine_tuning/jobs HTTP"
    uploaded = json.loads(falqon("files", "upload", str(fake_file()), "--json").stdout)
    with Proxy(service.port) as proxy:
        proxy.lose = create
        arguments = (
            "--model",
            "falqon-tiny",
            "--file",
            uploaded["id"],
            "--yes",
            "--base-url",
            proxy.url,
            "--api-key",
            KEY,
        )
        done = falqon("jobs", "create", *arguments)
        assert done.exit_code == 0, done.stderr
        assert proxy.lost == 1
        first, second = (head["idempotency-key"] for head in proxy.heads(create))
        assert first == second
        falqon("jobs", "create", *arguments)
        assert proxy.heads(create)[2]["idempotency-key"] != first


def test_a_lost_answer_to_the_request_before_an_upload_is_asked_for_again(
    falqon: Falqon, service: Service, fake_file: Callable[..., Path]
) -> None:
    create = "POST /v1/fine_tuning/jobs HTTP"
    with Proxy(service.port) as proxy:
        proxy.lose = create
        there = ("--yes", "--base-url", proxy.url, "--api-key", KEY)
        file = ("--file", str(fake_file()))
        done = falqon("jobs", "create", "--model", "falqon-tiny", *file, *there)
        assert (done.exit_code, proxy.lost) == (0, 1), done.stderr
        without, again, with_data = (head["idempotency-key"] for head in proxy.heads(create))
        assert without == again != with_data
