"""What a client owes has a deadline, and no crowd of half-sent requests keeps others out."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from app.base.database import Database
from tests.support.api import NOTHING_LISTENS, Api, Tenant
from tests.support.schema import migrate_database
from tests.support.service import free_port
from tests.support.waiting import wait_for

SECONDS = 1.0
NUM_ALLOWED = 20
HALF_A_HEAD = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-half: "


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("connections")
    patience = timedelta(seconds=SECONDS)
    api = Api(
        f"sqlite:///{folder / 'falqon.db'}",
        folder,
        max_connections=NUM_ALLOWED,
        head_timeout=patience,
        body_timeout=patience,
    )
    yield api
    api.stop()


def connect(api: Api, sent: bytes = b"") -> socket.socket:
    """A connection that has sent this much."""
    host, port = api.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(sent)
    return connection


def head(tenant: Tenant, path: str, length: int, *more: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: localhost", f"authorization: Bearer {tenant.key}"]
    return "\r\n".join([*lines, f"content-length: {length}", *more, "", ""]).encode()


def rest(connection: socket.socket) -> bytes:
    """What it answers until it is closed."""
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def refusal(answer: bytes) -> tuple[str, str]:
    head, _, content = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    return head.split()[1].decode(), json.loads(content)["error"]["code"]


def is_answered(api: Api) -> bool:
    return httpx.get(f"{api.url}/healthz", verify=False, timeout=10).status_code == 200


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(65_536, socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def drip(connection: socket.socket, pauses: int, what: bytes = b"x") -> None:
    """A byte now and then, until the other side has enough."""
    for _ in range(pauses):
        time.sleep(SECONDS / 4)
        with contextlib.suppress(OSError):
            connection.sendall(what)


def test_a_request_head_that_drips_in_has_a_deadline(api: Api) -> None:
    began = time.monotonic()
    with (
        connect(api) as silent,
        connect(api, HALF_A_HEAD) as half,
        connect(api, HALF_A_HEAD) as slow,
    ):
        assert refusal(rest(half)) == ("408", "request_timeout")
        assert rest(silent) == b""
        assert SECONDS / 2 < time.monotonic() - began < 5 * SECONDS
        drip(slow, 3)
        with contextlib.suppress(ConnectionError):
            rest(slow)
    assert time.monotonic() - began < 6 * SECONDS


def test_the_second_request_head_of_a_connection_has_a_deadline(api: Api) -> None:
    with connect(api, b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n") as connection:
        assert b"200 OK" in connection.recv(65_536)
        began = time.monotonic()
        connection.sendall(HALF_A_HEAD)
        assert refusal(rest(connection)) == ("408", "request_timeout")
        assert time.monotonic() - began < 5 * SECONDS


def test_a_body_that_stalls_is_refused(tenant: Tenant) -> None:
    began = time.monotonic()
    with connect(tenant.api, head(tenant, "/v1/fine_tuning/jobs", 100) + b'{"mo') as connection:
        assert refusal(rest(connection)) == ("408", "request_timeout")
    assert SECONDS / 2 < time.monotonic() - began < 5 * SECONDS


def test_a_dripping_body_of_a_refused_request_ends_in_time(api: Api) -> None:
    unknown = b"POST /v1/files HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n"
    began = time.monotonic()
    with connect(api, unknown) as connection:
        assert b"401" in connection.recv(65_536)
        while not is_closed(connection) and time.monotonic() - began < 10 * SECONDS:
            drip(connection, 1)
    assert time.monotonic() - began < 5 * SECONDS


def test_a_slow_upload_that_goes_on_is_not_hurt(tenant: Tenant) -> None:
    line = json.dumps(
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    )
    form = "\r\n".join(
        [
            '--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nfine-tune',
            '--b\r\ncontent-disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
            f"{line}\n",
            "--b--\r\n",
        ]
    ).encode()
    sent = head(
        tenant,
        "/v1/files",
        len(form),
        "content-type: multipart/form-data; boundary=b",
        "connection: close",
    )
    began = time.monotonic()
    with connect(tenant.api, sent) as connection:
        step = len(form) // 8 + 1
        for start in range(0, len(form), step):
            time.sleep(SECONDS / 4)
            connection.sendall(form[start : start + step])
        assert b"200 OK" in rest(connection)
    assert time.monotonic() - began > 1.5 * SECONDS


def test_a_stream_outlives_every_deadline(tenant: Tenant) -> None:
    job = tenant.job()
    path = f"/v1/fine_tuning/jobs/{job.id}/stream"
    with tenant.http.stream("GET", path) as response:
        chunks = response.iter_raw()
        assert next(chunks)
        time.sleep(2 * SECONDS)
        tenant.client.fine_tuning.jobs.cancel(job.id)
        assert b"cancel" in b"".join(chunks)


def test_a_download_that_is_read_slowly_arrives_whole(tenant: Tenant) -> None:
    content = (b'{"text": "' + b"a" * 2**20 + b'"}\n') * 12  # more than the kernel's buffers take
    file_id = tenant.upload(content, check=False)
    ask = (
        f"GET /v1/files/{file_id}/content HTTP/1.1\r\nhost: a\r\n"
        f"authorization: Bearer {tenant.key}\r\nconnection: close\r\n\r\n"
    )
    with connect(tenant.api, ask.encode()) as connection:
        begun = connection.recv(1)
        time.sleep(2 * SECONDS)
        assert (begun + rest(connection)).endswith(content)


def test_the_longest_waiting_connection_makes_room(api: Api) -> None:
    with contextlib.ExitStack() as crowd:
        first = crowd.enter_context(connect(api, HALF_A_HEAD))
        for _ in range(NUM_ALLOWED):
            crowd.enter_context(connect(api, HALF_A_HEAD))
        assert is_answered(api)
        with contextlib.suppress(ConnectionResetError):
            assert rest(first) == b""  # not told: it was in the way, not late


def test_where_all_are_busy_the_next_is_refused(tenant: Tenant) -> None:
    job = tenant.job()
    api = tenant.api
    ask = (
        f"GET /v1/fine_tuning/jobs/{job.id}/stream HTTP/1.1\r\nhost: a\r\n"
        f"authorization: Bearer {tenant.key}\r\n\r\n"
    )
    tenant.http.close()
    time.sleep(SECONDS / 2)
    with contextlib.ExitStack() as readers:
        for _ in range(NUM_ALLOWED):
            reader = readers.enter_context(connect(api, ask.encode()))
            assert b"200 OK" in reader.recv(65_536)
        with connect(api) as refused:
            assert refusal(rest(refused)) == ("503", "too_many_connections")
    wait_for(lambda: is_answered(api))


LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
os.execv(sys.executable, [sys.executable, "-m", "app.cli", "api", "--port", sys.argv[1]])
"""


@contextlib.contextmanager
def served_with_1024_files(folder: Path) -> Iterator[tuple[str, int, Path]]:
    """Its address, its port and its log."""
    database = Database(f"sqlite:///{folder / 'falqon.db'}")
    migrate_database(database)
    database.dispose()
    environment = os.environ | {"FALQON_DATA_DIR": str(folder), "REDIS_URL": NOTHING_LISTENS}
    environment |= {
        "FALQON_ADMIN_KEY": "an-admin-key-for-this-test",
        "FALQON_HEAD_TIMEOUT": "PT60S",
    }
    environment.pop("DATABASE_URL", None)
    port = free_port()
    log = folder / "log"
    with log.open("wb") as output:
        command = [sys.executable, "-c", LIMITED, str(port)]
        process = subprocess.Popen(command, env=environment, stderr=output, stdout=output)
    url = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/healthz", verify=False).is_success
        return False

    try:
        wait_for(is_up)
        yield url, port, log
    finally:
        process.kill()
        process.wait()


def test_1100_half_requests_keep_nobody_out_where_files_are_few(tmp_path: Path) -> None:
    with (
        served_with_1024_files(tmp_path) as (url, port, log),
        contextlib.ExitStack() as crowd,
    ):
        for number in range(1100):
            # or the kernel's queue is full and a second lost
            time.sleep(0.05 if number % 40 == 0 else 0)
            half = crowd.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            half.sendall(HALF_A_HEAD)
        for _ in range(5):
            assert httpx.get(f"{url}/healthz", verify=False, timeout=5).is_success
            time.sleep(0.2)
        assert log.stat().st_size < 20_000
