"""Bytes pass through the process; they do not gather in it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from app.base.storage import storage
from tests.support.api_process import ApiProcess

FILE_BYTES = 256 * 2**20
PART_BYTES = 64 * 2**20
# A part that gathers, one that is handed over, and those under way; twice, since malloc keeps apart
# what two threads have freed.
MAY_GROW_BYTES = 2 * (storage.PARTS_AT_ONCE + 2) * storage.PART_BYTES


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiProcess]:
    """A process of its own, so that what it holds is what the service holds."""
    server = ApiProcess(tmp_path)
    yield server
    server.close()


def send_file(server: ApiProcess, content: BinaryIO) -> str:
    answer = server.http.post(
        "/v1/files", data={"purpose": "user_data"}, files={"file": ("a", content)}
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def test_a_large_file_passes_through_a_small_process(server: ApiProcess) -> None:
    with tempfile.TemporaryFile() as content:
        content.write(b"x" * 2**20)
        content.seek(0)
        send_file(server, content)
        before = server.peak_bytes()
        content.truncate(FILE_BYTES)
        content.seek(0)
        file_id = send_file(server, content)
        with server.http.stream("GET", f"/v1/files/{file_id}/content") as download:
            assert sum(map(len, download.iter_bytes())) == FILE_BYTES
        assert server.peak_bytes() - before < MAY_GROW_BYTES

        request = {
            "bytes": FILE_BYTES,
            "filename": "a",
            "mime_type": "text/plain",
            "purpose": "user_data",
        }
        path = f"/v1/uploads/{server.http.post('/v1/uploads', json=request).json()['id']}"
        content.truncate(PART_BYTES)
        part_ids = []
        for _ in range(FILE_BYTES // PART_BYTES):
            content.seek(0)
            part_ids.append(
                server.http.post(f"{path}/parts", files={"data": ("upload", content)}).json()["id"]
            )
        done = server.http.post(f"{path}/complete", json={"part_ids": part_ids}).json()
        assert (done["status"], done["file"]["bytes"]) == ("completed", FILE_BYTES)
        assert server.peak_bytes() - before < MAY_GROW_BYTES
