"""A file of one endless line arrives like any other, and whoever checks it keeps no more of it than
a line may have.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.api import Api, Tenant

LINE_BYTES = 100 * 2**20
MAY_GROW_BYTES = 48 * 2**20
CHECK = """
import json, resource, sys
from app.base.database import Database
from app.base.settings import Settings
from app.base.storage import Storage
from tests.support.checks import check_file
settings = Settings(_env_file=None)
database, storage = Database(settings.resolved_database_url), Storage(settings.resolved_storage_url)
check_file(database, storage, "file-that-is-not-there", settings)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
check_file(database, storage, sys.argv[1], settings)
after = max(
    resource.getrusage(whose).ru_maxrss
    for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
)
print(json.dumps(1024 * (after - before)))
"""


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    api = Api(f"sqlite:///{tmp_path / 'falqon.db'}", tmp_path, max_file_bytes=LINE_BYTES + 2**20)
    yield api
    api.stop()


def test_a_line_of_100_megabytes_is_refused_in_little_memory(api: Api) -> None:
    tenant = Tenant(api)
    answer = tenant.http.post(
        "/v1/files",
        content=form_with_one_line(),
        headers={"content-type": "multipart/form-data; boundary=x"},
        timeout=60,
    )
    file_id = answer.json()["id"]
    environment = os.environ | {
        "FALQON_DATA_DIR": str(api.settings.data_dir),
        "DATABASE_URL": api.settings.resolved_database_url,
    }
    done = subprocess.run(
        [sys.executable, "-c", CHECK, file_id],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) < MAY_GROW_BYTES
    file = tenant.client.files.retrieve(file_id)
    assert (file.bytes, file.status) == (LINE_BYTES, "error")
    assert "line 1" in str(file.status_details)
    assert "too long" in str(file.status_details)
    tenant.http.close()


def form_with_one_line() -> Iterator[bytes]:
    yield b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    yield from (b"x" * 2**20 for _ in range(LINE_BYTES // 2**20))
    yield b"\r\n--x--\r\n"
