"""What the contract tests show for local files must hold for object stores as well."""

import asyncio
import hashlib

import pytest
from starlette.requests import Request

from app.base.errors import RangeNotSatisfiable
from app.base.storage import Storage
from app.http import downloads
from app.http.downloads import Content

CONTENT = bytes(range(256)) * 10_000  # more than two chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def storage() -> Storage:
    storage = Storage("memory:///")
    storage.put("a/b", [CONTENT])
    return storage


def fetch(
    storage: Storage, method: str = "GET", **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "headers": raw, "asgi": {"spec_version": "2.4"}}
    response = downloads.send(
        Request(scope), storage, Content("a/b", len(CONTENT), SHA256, "b"), redirects=True
    )
    sent: list[bytes] = []

    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def send(message: object) -> None:
        sent.append(message.get("body", b""))  # type: ignore[attr-defined]

    asyncio.run(response(scope, receive, send))
    return response.status_code, b"".join(sent), dict(response.headers)


def test_whole_and_part(storage: Storage) -> None:
    status, body, headers = fetch(storage)
    assert (status, body) == (200, CONTENT)
    assert (headers["etag"], headers["content-length"]) == (f'"{SHA256}"', str(len(CONTENT)))
    status, body, headers = fetch(storage, range="bytes=100-2000000")
    assert (status, body) == (206, CONTENT[100:2_000_001])
    assert (headers["content-range"], headers["content-length"]) == (
        f"bytes 100-2000000/{len(CONTENT)}",
        "1999901",
    )
    assert fetch(storage, range="bytes=5-", if_range='"other"')[:2] == (200, CONTENT)
    assert fetch(storage, if_none_match=f'"{SHA256}"')[:2] == (304, b"")


def test_head_reads_nothing(storage: Storage) -> None:
    storage.delete("a/b")
    status, body, headers = fetch(storage, "HEAD")
    assert (status, body, headers["content-length"]) == (200, b"", str(len(CONTENT)))


def test_beyond_the_end(storage: Storage) -> None:
    with pytest.raises(RangeNotSatisfiable):
        fetch(storage, range=f"bytes={len(CONTENT)}-")
