"""The process as an operator sees it: cheap to start, small, answering for its health, leaving when
told.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from app.base.database import Database
from app.base.processes.open_files import OPEN_FILES
from app.models import DEFAULT_PROJECT_ID, Desired, JobStatus, Model
from tests.support.api import NOTHING_LISTENS, Api, Tenant
from tests.support.rows import checked_file, queued_job
from tests.support.schema import migrate_database
from tests.support.service import free_port
from tests.support.waiting import wait_for

WITH_1024_FILES = """
import os, resource, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
os.execv(sys.argv[1], sys.argv[1:])
"""
IMPORT = "import json, sys, app.main; print(json.dumps(sorted(sys.modules)))"


def test_importing_brings_nothing_heavy_and_touches_nothing(tmp_path: Path) -> None:
    environment = os.environ | {"FALQON_DATA_DIR": str(tmp_path / "data")}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True, env=environment
    )
    heavy = {"torch", "transformers", "numpy", "triton", "worker", "opentelemetry.exporter"}
    assert not heavy & set(json.loads(done.stdout))
    assert not (tmp_path / "data").exists()


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setattr("app.http.probes.PROBE_SECONDS", 0.05)
    api = Api(f"sqlite:///{tmp_path / 'falqon.db'}", tmp_path)
    yield api
    api.stop()


def test_health(api: Api) -> None:
    assert httpx.get(f"{api.url}/healthz", verify=False).json() == {
        "status": "ok",
        "version": version("falqon"),
    }
    answer = httpx.get(f"{api.url}/readyz", verify=False)
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["checks"] == {"database": "ok", "redis": "unreachable", "storage": "ok"}


def test_a_database_that_is_not_migrated_is_not_ready(api: Api) -> None:
    with api.database.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM alembic_version")
    answer = wait_for(lambda: readiness(api, "database", "not migrated"))
    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) > 0


def test_the_api_serves_a_newer_schema_without_a_log_line(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    """A rolling upgrade migrates before the old processes end."""
    with api.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'of-tomorrow'")
    caplog.clear()
    time.sleep(1)  # many probes
    answer = httpx.get(f"{api.url}/readyz", verify=False)
    assert (answer.status_code, answer.json()["checks"]["database"]) == (200, "ok")
    assert [record for record in caplog.records if record.name.startswith("alembic")] == []


def test_a_database_that_is_away_is_said_so_and_may_be_asked_again(api: Api) -> None:
    tenant = Tenant(api)
    engine = api.app.state.services.database.engine

    def away(*_: object) -> None:
        raise OperationalError("BEGIN", {}, ConnectionError("gone"))

    event.listen(engine, "begin", away)
    page = tenant.http.get("/")
    assert (page.status_code, int(page.headers["retry-after"]) > 0) == (503, True)
    for path in ("/v1/models", "/v1/files"):
        answer = tenant.http.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert "x-should-retry" not in answer.headers
    assert wait_for(lambda: readiness(api, "database", "unreachable")).status_code == 503
    event.remove(engine, "begin", away)
    assert tenant.http.get("/v1/models").status_code == 200
    tenant.http.close()


def test_an_unforeseen_error_is_a_500_in_the_usual_shape(api: Api) -> None:
    tenant = Tenant(api)
    services = api.app.state.services
    api.app.state.services = None
    answer = tenant.http.get("/v1/models")
    api.app.state.services = services
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert answer.headers["x-request-id"]
    tenant.http.close()


def test_a_process_is_small_raises_its_limit_of_files_and_ends_its_streams_at_sigterm(
    tmp_path: Path,
) -> None:
    database = Database(f"sqlite:///{tmp_path / 'falqon.db'}")
    migrate_database(database)
    key = "an-admin-key-for-this-test"
    environment = os.environ | {
        "FALQON_DATA_DIR": str(tmp_path),
        "REDIS_URL": NOTHING_LISTENS,
        "FALQON_ADMIN_KEY": key,
    }
    environment.pop("DATABASE_URL", None)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = min(hard, OPEN_FILES)
    assert most > 1024
    port = free_port()
    command = [sys.executable, "-m", "app.cli", "api", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", WITH_1024_FILES, *command], env=environment, stderr=log
        )
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"authorization": f"Bearer {key}"},
            verify=False,
        ) as http:
            wait_for(lambda: is_ready(http))
            assert resident_bytes(process.pid) < 200 * 2**20
            assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (most, hard)
            job_id = add_job(database)
            with http.stream("GET", f"/v1/fine_tuning/jobs/{job_id}/stream") as response:
                assert response.status_code == 200
                process.send_signal(signal.SIGTERM)
                # Cut, not ended: a reader must not take it for the end of the job.
                with pytest.raises(httpx.RemoteProtocolError):
                    response.read()
        assert process.wait(10) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
        database.dispose()


def readiness(api: Api, part: str, verdict: str) -> httpx.Response | None:
    """The answer of /readyz once it says this of this part."""
    answer = httpx.get(f"{api.url}/readyz", verify=False)
    return answer if answer.json()["checks"][part] == verdict else None


def is_ready(http: httpx.Client) -> bool:
    with suppress(httpx.ConnectError):
        return http.get("/readyz").status_code == 200
    return False


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def add_job(database: Database) -> str:
    with database.transaction() as session:
        session.add(Model(id="tiny", config={}, bytes=1))
        session.add(checked_file("file-a", DEFAULT_PROJECT_ID))
        session.flush()
        paused = {"status": JobStatus.PAUSED, "desired": Desired.PAUSE}
        session.add(queued_job("ftjob-a", DEFAULT_PROJECT_ID, "file-a", **paused))
    return "ftjob-a"
