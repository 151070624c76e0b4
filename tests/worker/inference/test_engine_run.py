"""A loaded model while the database is away."""

import sqlite3
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from app.catalogue.importer import ensure_tiny_model
from app.models import Engine
from tests.support.api import Api, Tenant
from tests.support.backend import processes
from tests.support.engines import engine_worker
from tests.support.waiting import wait_for

MODEL = "falqon-tiny"
BUSY_SECONDS = 0.5  # that a transaction waits for another


def test_an_engine_stays_loaded_as_long_as_its_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.base.database.BUSY_TIMEOUT_MS", int(BUSY_SECONDS * 1000))
    path = tmp_path / "falqon.db"
    api = Api(f"sqlite:///{path}", tmp_path, engine_wait=timedelta(seconds=60))
    tenant = Tenant(api)
    try:
        ensure_tiny_model(api.database, api.storage, api.settings)
        with engine_worker(api, lease=timedelta(seconds=60)):
            question = {"model": MODEL, "prompt": "One", "max_tokens": 1}
            assert tenant.http.post("/v1/completions", json=question).status_code == 200
            programs = processes("worker.inference.llama_cpp", str(tmp_path))
            with closing(sqlite3.connect(path)) as other:
                other.execute("BEGIN EXCLUSIVE")
                time.sleep(BUSY_SECONDS + 1.5)
                other.rollback()
            with api.database.read() as session:
                before = session.get_one(Engine, (MODEL, 0)).lease_expires_at

            def is_renewed() -> bool:
                with api.database.read() as session:
                    return session.get_one(Engine, (MODEL, 0)).lease_expires_at > before

            wait_for(is_renewed, what="it beats again")
            assert tenant.http.post("/v1/completions", json=question).status_code == 200
            assert processes("worker.inference.llama_cpp", str(tmp_path)) == programs
    finally:
        tenant.http.close()
        api.stop()
