"""Bytes pass through the process; they do not gather in it."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import httpx
import pytest

from app import migrate
from app.database import Database
from tests.support.api import NOTHING_LISTENS
from tests.support.service import free_port
from tests.support.waiting import wait_for

KEY = "an-admin-key-for-this-test"
FILE_BYTES, PART_BYTES, MAY_GROW_BYTES = 192 * 2**20, 64 * 2**20, 80 * 2**20


class Server(NamedTuple):
    http: httpx.Client
    pid: int

    def peak_bytes(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])  # type: ignore[index]

    def send_file(self, content: BinaryIO) -> str:
        answer = self.http.post("/v1/files", data={"purpose": "user_data"}, files={"file": ("a", content)})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A process of its own, so that what it holds is what the service holds."""
    database = Database(f"sqlite:///{tmp_path / 'falqon.db'}")
    migrate.upgrade(database)
    database.dispose()
    environment = os.environ | {"FALQON_DATA_DIR": str(tmp_path), "REDIS_URL": NOTHING_LISTENS, "FALQON_ADMIN_KEY": KEY}
    environment.pop("DATABASE_URL", None)
    port = free_port()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "uvicorn", "app.main:app", "--port", str(port)], env=environment, stderr=log)
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=120, verify=False) as http:
        try:
            wait_for(lambda: is_up(http))
            yield Server(http, process.pid)
        finally:
            process.kill()
            process.wait()


def is_up(http: httpx.Client) -> bool:
    with suppress(httpx.ConnectError):
        return http.get("/healthz").status_code == 200
    return False


def test_a_large_file_passes_through_a_small_process(server: Server) -> None:
    with tempfile.TemporaryFile() as content:
        content.write(b"x" * 2**20)
        content.seek(0)
        server.send_file(content)
        before = server.peak_bytes()
        content.truncate(FILE_BYTES)
        content.seek(0)
        file_id = server.send_file(content)
        with server.http.stream("GET", f"/v1/files/{file_id}/content") as download:
            assert sum(map(len, download.iter_bytes())) == FILE_BYTES
        assert server.peak_bytes() - before < MAY_GROW_BYTES

        wanted = {"bytes": FILE_BYTES, "filename": "a", "mime_type": "text/plain", "purpose": "user_data"}
        path = f"/v1/uploads/{server.http.post('/v1/uploads', json=wanted).json()['id']}"
        content.truncate(PART_BYTES)
        part_ids = []
        for _ in range(FILE_BYTES // PART_BYTES):
            content.seek(0)
            part_ids.append(server.http.post(f"{path}/parts", files={"data": ("upload", content)}).json()["id"])
        done = server.http.post(f"{path}/complete", json={"part_ids": part_ids}).json()
        assert (done["status"], done["file"]["bytes"]) == ("completed", FILE_BYTES)
        assert server.peak_bytes() - before < MAY_GROW_BYTES
