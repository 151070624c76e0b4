"""Uploads whose body is malformed, compressed or too long."""

import json
import socket
from http.client import HTTPConnection

import httpx
import pytest

from app.models import File, Orphan
from tests.support.api import Tenant

HEAD = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
FILE = b'--x\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n\r\n{}\r\n'


@pytest.mark.parametrize(
    ("claimed", "status"), [(10 * 10**9, b"413"), (-1, b"400"), (10**6, b""), (70, b"400")]
)
def test_a_length_that_lies(tenant: Tenant, claimed: int, status: bytes) -> None:
    before = tenant.num_rows(File, Orphan)
    url = httpx.URL(tenant.api.url)
    headers = (
        f"Host: x\r\nAuthorization: Bearer {tenant.key}\r\nContent-Type: multipart/form-data; "
        "boundary=x\r\n"
    )
    body = HEAD + FILE % b"a" + b"--x--\r\n"
    with socket.create_connection((url.host, url.port)) as connection:
        connection.sendall(
            f"POST /v1/files HTTP/1.1\r\n{headers}Content-Length: {claimed}\r\n\r\n".encode() + body
        )
        if claimed == 10**6:  # the server waits for the rest, which never comes
            connection.shutdown(socket.SHUT_WR)
        connection.settimeout(10)
        answer = connection.recv(2**16)
    assert answer[9:12] == status
    assert (tenant.num_rows(File, Orphan), tenant.stored()) == (before, [])


def test_a_body_without_a_length_is_limited_too(tenant: Tenant) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    head += b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'

    def body() -> object:
        yield head
        for _ in range(3 * 2**4):
            yield b"x" * 2**16

    response = tenant.http.post(
        "/v1/files", content=body(), headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"


def test_a_body_beyond_the_quota_is_refused_before_it_is_sent(tenant: Tenant) -> None:
    upload = tenant.client.uploads.create(
        filename="a", purpose="fine-tune", bytes=2**20, mime_type="text/plain"
    )
    tenant.limit(max_storage_bytes=2**19)
    url = httpx.URL(tenant.api.url)
    for path in ("/v1/files", f"/v1/uploads/{upload.id}/parts"):
        connection = HTTPConnection(url.netloc.decode(), timeout=10)
        connection.putrequest("POST", path)
        connection.putheader("authorization", f"Bearer {tenant.key}")
        connection.putheader("content-type", "multipart/form-data; boundary=x")
        connection.putheader("content-length", str(2**20))
        connection.endheaders()
        answer = connection.getresponse()
        assert (answer.status, answer.headers["x-should-retry"]) == (429, "false")
        assert json.load(answer)["error"]["param"] == "max_storage_bytes"
        connection.close()
        whole = {"file": ("a", bytes(2**20 - 2**10))}
        read = tenant.http.post(path, files=whole)
        assert read.status_code == 429, "a client that sends all of it can read the answer"


def test_a_large_body_that_repeats_a_call_is_read_whatever_the_quota(tenant: Tenant) -> None:
    def create() -> httpx.Response:
        return tenant.http.post(
            "/v1/files",
            data={"purpose": "user_data"},
            files={"file": ("a", bytes(2**18))},
            headers={"idempotency-key": "k"},
        )

    file_id = create().json()["id"]
    tenant.limit(max_storage_bytes=1)
    assert create().json()["id"] == file_id


def test_a_request_without_a_key_is_refused_before_its_body_is_read(tenant: Tenant) -> None:
    response = httpx.post(
        f"{tenant.api.url}/v1/files",
        content=b"not even multipart",
        headers={"content-type": "multipart/form-data"},
    )
    assert response.status_code == 401
