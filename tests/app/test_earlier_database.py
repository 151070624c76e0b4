"""What a service of revision 0017 left, on today's tables: ended jobs look as they did, all others
end well.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from alembic import command

from app import migrate, reconciler
from app.database import Database
from app.models import DEFAULT_PROJECT_ID, Scope
from tests.support.api import Api, Tenant
from tests.support.backend import Backend
from tests.support.fake_trainer import weights_of
from tests.support.valkey import Valkey
from tests.support.waiting import wait_for

REVISION = "0017"
ROWS = Path(__file__).parent / "data" / "before_redesign.sql"
# The content of its storage, and what its API answered.
LEFT = json.loads(ROWS.with_suffix(".json").read_text())
JOBS = "/v1/fine_tuning/jobs"
QUEUED = "ftjob-queued-5c3fcb82"
RUNNING = "ftjob-running-51b4cafb"  # its lease has expired
PAUSED = "ftjob-paused-9e852fbe"  # learns preferences
VALIDATING = "ftjob-validating-5516f3c9"
MODEL = "ft:toy/base:default:mine:ba505cf2"


@pytest.fixture
def backend(tmp_path: Path, empty_database_url: str, valkey: Valkey) -> Iterator[Backend]:
    for key, content in LEFT["objects"].items():
        path = tmp_path / "data" / "objects" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    database = Database(empty_database_url)
    with database.engine.connect() as connection:
        command.upgrade(migrate._config(connection), REVISION)
        connection.commit()
        raw = connection.connection  # which takes a % in a text for one
        cursor = raw.cursor()
        for statement in ROWS.read_text().splitlines():
            cursor.execute(statement)
        cursor.close()
        raw.commit()
    migrate.upgrade(database)
    backend = Backend(tmp_path / "data", database, empty_database_url)
    redis_url = valkey.settings.resolved_redis_url
    backend.settings = backend.settings.model_copy(update={"redis_url": redis_url})
    yield backend
    backend.close()
    database.dispose()


@pytest.fixture
def client(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """For its API, with a key that administers its project."""
    monkeypatch.setattr(reconciler, "TICK_SECONDS", 0.5)
    settings = backend.settings
    api = Api(settings.resolved_database_url, settings.data_dir, redis_url=settings.redis_url)
    tenant = Tenant(api, Scope.ADMIN, DEFAULT_PROJECT_ID)
    yield tenant.http
    tenant.http.close()
    api.stop()


def test_jobs_of_an_earlier_version_are_shown_and_end_well(
    backend: Backend, client: httpx.Client
) -> None:
    for path, answer in LEFT["answers"].items():
        response = client.get(path)
        assert response.status_code == 200, response.text
        assert_kept(answer, response.json(), path)

    backend.start_worker("gpu,cpu")
    client.post(f"{JOBS}/{PAUSED}/resume").raise_for_status()
    for job_id, steps in ((QUEUED, 6), (VALIDATING, 6), (RUNNING, 12), (PAUSED, 12)):
        wait_for(
            lambda job_id=job_id: client.get(f"{JOBS}/{job_id}").json()["status"] == "succeeded",
            60,
            f"{job_id} has succeeded",
        )
        assert backend.weights(job_id) == weights_of(steps)
    assert backend.attempts(RUNNING)[1].start_step == 6
    assert backend.attempts(PAUSED)[1].start_step == 4
    export = f"/v1/models/{MODEL}/exports/bf16"
    wait_for(lambda: client.get(export).json()["status"] == "completed", 60, "the export")
    weights = backend.artifact("ftjob-succeeded-ba505cf2", "model.safetensors").decode()
    exported = client.get(f"/v1/models/{MODEL}:bf16/artifacts/bf16.txt", follow_redirects=True)
    assert exported.text == f"{MODEL}:bf16 {weights}"


def assert_kept(earlier: Any, now: Any, where: str) -> None:
    """Fields may have been added since, nothing else."""
    if isinstance(earlier, dict) and isinstance(now, dict):
        for name, value in earlier.items():
            assert name in now, f"{where} has lost {name}"
            assert_kept(value, now[name], f"{where}.{name}")
    elif isinstance(earlier, list) and isinstance(now, list):
        assert len(earlier) == len(now), where
        for number, pair in enumerate(zip(earlier, now, strict=True)):
            assert_kept(*pair, f"{where}[{number}]")
    else:
        assert earlier == now, where
