"""Forms beyond what the framework reads are refused in the service's words."""

import pytest

from app.models import File, Orphan
from tests.support.api import Tenant

MULTIPART = "multipart/form-data; boundary=x"
URLENCODED = "application/x-www-form-urlencoded"
END = b"--x--\r\n"


def part(headers: bytes, content: bytes = b"1") -> bytes:
    return b"--x\r\n" + headers + b"\r\n\r\n" + content + b"\r\n"


def field(name: bytes, content: bytes = b"1") -> bytes:
    return part(b'Content-Disposition: form-data; name="%b"' % name, content)


def file(name: bytes) -> bytes:
    return part(b'Content-Disposition: form-data; name="file"; filename="%b"' % name)


PURPOSE = field(b"purpose", b"fine-tune")
REFUSED = {
    "many fields": (MULTIPART, field(b"a") * 1001, "more than 1000 fields", None),
    "many files": (MULTIPART, file(b"a") * 1001, "more than 1000 files", None),
    "a large field": (
        MULTIPART,
        PURPOSE + field(b"file", b"x" * (2**20 + 1)),
        "larger than 1048576 bytes. Send a larger value as a file",
        None,
    ),
    "a long header": (MULTIPART, PURPOSE + file(b"n" * 5000), "Send a shorter filename", None),
    "many headers": (
        MULTIPART,
        part(b'Content-Disposition: form-data; name="a"' + b"\r\nX-A: 1" * 8),
        "more than 8 headers",
        None,
    ),
    "a part without a name": (MULTIPART, part(b"Content-Disposition: form-data"), "no name", None),
    "no boundary": ("multipart/form-data", PURPOSE, "without a boundary", "content-type"),
    "a long boundary": (
        "multipart/form-data; boundary=" + "x" * 257,
        PURPOSE,
        "more than 256 bytes",
        "content-type",
    ),
    "cut": (MULTIPART, PURPOSE + b"--x\r\nContent-Dispo", "cut short", None),
    "many fields, urlencoded": (URLENCODED, b"a=1&" * 1001, "more than 1000 fields", None),
    "a large field, urlencoded": (URLENCODED, b"a=" + b"1" * 2**20, "as a file, in mult", None),
}


# Starlette leaves the temporary files of parts that never ended to Python's reference count.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", REFUSED)
def test_a_form_that_cannot_be_read_is_refused_with_advice(tenant: Tenant, kind: str) -> None:
    content_type, content, advice, param = REFUSED[kind]
    before = tenant.num_rows(File, Orphan)
    headers = {"content-type": content_type}
    answer = tenant.http.post("/v1/files", content=content + END, headers=headers)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert advice in error.pop("message")
    assert error == {"type": "invalid_request_error", "param": param, "code": "invalid_body"}
    assert answer.headers["x-should-retry"] == "false"
    assert (tenant.num_rows(File, Orphan), tenant.stored()) == (before, [])


def test_parts_of_uploads_are_refused_the_same_way(tenant: Tenant) -> None:
    answer = tenant.http.post(
        "/v1/uploads/upload_x/parts",
        content=field(b"data", b"x" * (2**20 + 1)) + END,
        headers={"content-type": MULTIPART},
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_body")
    assert "has a filename" in answer.json()["error"]["message"]
