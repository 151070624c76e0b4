import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest

from app.base.outbound import connection
from app.webhooks import posting
from app.webhooks.posting import Undelivered, post
from tests.support.receiver import receiving

LOOPBACK = [ip_network("127.0.0.0/8"), ip_network("::1/128")]


@contextmanager
def raw_server(answer: bytes, pause: float = 0.0) -> Iterator[str]:
    """Sends its answer, byte by byte if there is a pause, and then nothing more while the caller
    stays.
    """
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connected, _ = listener.accept()
        with connected:
            try:
                for part in [bytes([byte]) for byte in answer] if pause else [answer]:
                    connected.sendall(part)
                    time.sleep(pause)
                while connected.recv(1024):
                    pass
            except OSError:
                return

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    thread.join(60)
    listener.close()
    assert not thread.is_alive()


def test_a_post_arrives_whole() -> None:
    with receiving() as receiver:
        assert (
            post(
                receiver.url,
                b'{"a":1}',
                {"content-type": "application/json", "webhook-id": "evt_1"},
                LOOPBACK,
            )
            == 204
        )
    ((path, headers, body),) = receiver.received
    assert (path, body) == ("/hook?a=b", b'{"a":1}')
    assert headers["host"] == f"127.0.0.1:{receiver.port}"
    assert (headers["content-type"], headers["content-length"], headers["webhook-id"]) == (
        "application/json",
        "7",
        "evt_1",
    )


def test_a_forbidden_address_is_never_connected_to() -> None:
    with receiving() as receiver:
        for url in (
            receiver.url,
            receiver.url.replace("127.0.0.1", "localhost"),
            f"https://localhost:{receiver.port}/",
        ):
            with pytest.raises(Undelivered):
                post(url, b"", {}, [])
    assert receiver.received == []


def test_redirects_are_not_followed() -> None:
    with receiving() as receiver, receiving() as elsewhere:
        receiver.answers.extendleft([302])
        receiver.location = elsewhere.url
        assert post(receiver.url, b"{}", {}, LOOPBACK) == 302
    assert elsewhere.received == []


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as receiver, receiving() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert post(receiver.url, b"{}", {}, LOOPBACK) == 204
    assert proxy.received == []


def test_the_address_that_was_checked_is_the_one_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name server that says something else the second time is not asked a second time."""
    lookups = []
    real = socket.getaddrinfo

    def rebinding(host: bytes | str, *arguments: object, **options: object) -> object:
        if host not in (b"hooks.example.com", "hooks.example.com"):
            return real(host, *arguments, **options)  # type: ignore[call-overload]
        lookups.append(host)
        return real("127.0.0.1" if len(lookups) == 1 else "127.0.0.2", *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    with receiving() as receiver:
        assert (
            post(
                f"http://hooks.example.com:{receiver.port}/",
                b"{}",
                {},
                [ip_network("127.0.0.1/32")],
            )
            == 204
        )
    assert receiver.received[0].headers["host"] == f"hooks.example.com:{receiver.port}"
    assert len(lookups) == 1


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nx-slow: " + b"a" * 100, b""])
def test_a_receiver_that_answers_too_slowly_is_cut_off(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posting, "TIMEOUT_SECONDS", 0.5)
    with raw_server(answer, pause=0.1) as url:
        began = time.monotonic()
        with pytest.raises(Undelivered, match=r"no answer within 0\.5 seconds"):
            post(url, b"{}", {}, LOOPBACK)
        assert time.monotonic() - began < 5


def test_an_endless_body_is_not_read() -> None:
    with raw_server(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\nabc") as url:
        assert post(url, b"{}", {}, LOOPBACK) == 200


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(b"SSH-2.0-x\r\n", "not HTTP"), (b"HTTP/1.1 200 OK\r\na: " + b"x" * 70_000, "not HTTP")],
)
def test_an_answer_that_is_not_http_is_reported(answer: bytes, reason: str) -> None:
    with raw_server(answer) as url, pytest.raises(Undelivered, match=reason):
        post(url, b"{}", {}, LOOPBACK)


def test_an_unreachable_receiver_is_reported() -> None:
    with pytest.raises(Undelivered, match="connection failed: Connection refused"):
        post("http://127.0.0.1:1/", b"{}", {}, LOOPBACK)
    with pytest.raises(Undelivered, match="does not resolve"):
        post("https://nowhere.invalid/", b"{}", {}, LOOPBACK)
    with pytest.raises(Undelivered, match="does not resolve"):
        post(f"https://{'a' * 70}.example.com/", b"{}", {}, LOOPBACK)


@pytest.mark.parametrize(
    "host",
    [
        ".localhost",
        "a..localhost",
        "localhost.",
        "a" * 64 + ".localhost",
        "xn--a.localhost",
        "-.localhost",
    ],
)
def test_odd_names_are_only_undelivered(host: str) -> None:
    with pytest.raises(Undelivered):
        post(f"https://{host}:1/", b"{}", {}, LOOPBACK)


def test_the_certificate_must_be_for_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = tmp_path / "cert.pem"
    key = tmp_path / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(
        [*command, "-keyout", key, "-out", certificate, *names], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    connection._trust.cache_clear()
    with receiving(context) as receiver:
        by_name, by_number = (
            f"https://{host}:{receiver.port}/" for host in ("localhost", "127.0.0.1")
        )
        with pytest.raises(
            Undelivered, match="certificate was not accepted: self-signed certificate"
        ):
            post(by_name, b"{}", {}, LOOPBACK)
        connection._trust.cache_clear()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert post(by_name, b"{}", {}, LOOPBACK) == 204
        with pytest.raises(Undelivered, match="certificate was not accepted: IP address mismatch"):
            post(by_number, b"{}", {}, LOOPBACK)
    connection._trust.cache_clear()
    assert len(receiver.received) == 1
