"""A store that is silent or gone costs those who need it an answer of 503, and nobody else
anything.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from app.base.ids import new_id
from app.base.storage.reach import FOR_REQUESTS
from app.http import storage_limit
from app.models import FileCheck
from tests.contract.test_file_imports import context_of
from tests.support.api import Api, Tenant, jsonl
from tests.support.object_store import ObjectStore
from tests.support.waiting import wait_for
from worker.machine import outage
from worker.operations.file_check import FileCheckHandler

NUM_REQUESTS = 60  # half as many again as there are threads
SILENCE = timedelta(seconds=4)


@pytest.fixture
def tenant(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tenant]:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    # As in production, only sooner.
    impatient = replace(FOR_REQUESTS, silence=SILENCE, retries=timedelta(seconds=1))
    monkeypatch.setattr("app.base.storage.reach.FOR_REQUESTS", impatient)
    monkeypatch.setattr("app.http.probes.PROBE_SECONDS", 0.2)
    monkeypatch.setattr(storage_limit, "WAIT_SECONDS", 2.0)
    api = Api(
        f"sqlite:///{tmp_path / 'falqon.db'}",
        tmp_path,
        storage_url=f"{store.url}/{tmp_path.name}",
        download_redirects=False,
    )
    tenant = Tenant(api)
    yield tenant
    store.answer_again()
    tenant.http.close()
    api.stop()


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tenant]:
    """A project of an API whose storage is a folder."""
    monkeypatch.setattr("app.http.probes.PROBE_SECONDS", 0.05)
    api = Api(f"sqlite:///{tmp_path / 'falqon.db'}", tmp_path)
    tenant = Tenant(api)
    yield tenant
    tenant.http.close()
    api.stop()


def assert_unavailable(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.json()["error"]["code"] == "storage_unavailable"
    assert int(answer.headers["retry-after"]) > 0


def test_a_silent_store_stops_nobody_who_does_not_need_it(
    tenant: Tenant, store: ObjectStore
) -> None:
    file_id = tenant.upload(check=False)
    job_id = tenant.job().id
    other = Tenant(tenant.api)
    assert tenant.http.get("/readyz").json()["checks"]["storage"] == "ok"
    store.fall_silent()

    def touch(number: int) -> httpx.Response:
        headers = {"authorization": f"Bearer {tenant.key}"}
        base = tenant.api.url
        with httpx.Client(base_url=base, headers=headers, timeout=60, verify=False) as http:
            if number % 2:
                return http.get(f"/v1/files/{file_id}/content")
            form = {"purpose": "fine-tune"}
            return http.post("/v1/files", data=form, files={"file": ("a.jsonl", jsonl())})

    with ThreadPoolExecutor(NUM_REQUESTS) as pool:
        answers = [pool.submit(touch, number) for number in range(NUM_REQUESTS)]
        time.sleep(1)  # they have all arrived
        assert not all(answer.done() for answer in answers), "they wait for the store"
        # Another project has turns of its own.
        assert other.http.get("/v1/files/file-unknown/content").status_code == 404
        for path in ("/healthz", "/readyz", f"/v1/fine_tuning/jobs/{job_id}", "/readyz"):
            started = time.monotonic()
            answer = tenant.http.get(path)
            assert answer.status_code == 200 or path == "/readyz", path
            assert time.monotonic() - started < 5, path  # those that wait take 20 s
        for answer in answers:
            assert_unavailable(answer.result())
    other.http.close()
    readiness = wait_for(lambda: storage_is(tenant, "not writable"))
    assert (readiness.status_code, readiness.json()["status"]) == (503, "unavailable")
    store.answer_again()
    wait_for(lambda: tenant.http.get("/readyz").json()["checks"]["storage"] == "ok")
    assert tenant.http.get(f"/v1/files/{file_id}/content").content == jsonl()


def storage_is(tenant: Tenant, verdict: str) -> httpx.Response | None:
    answer = tenant.http.get("/readyz")
    return answer if answer.json()["checks"]["storage"] == verdict else None


def test_a_folder_that_is_not_mounted_takes_nothing(
    local: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "FIRST_PAUSE_SECONDS", 0.1)
    folder, elsewhere = local.api.settings.storage_folder, tmp_path / "elsewhere"
    assert folder is not None
    waiting = local.upload(check=False)
    folder.rename(elsewhere)
    form, files = {"purpose": "fine-tune"}, {"file": ("a.jsonl", jsonl())}
    assert_unavailable(local.http.post("/v1/files", data=form, files=files))
    assert_unavailable(local.http.get(f"/v1/files/{waiting}/content"))
    readiness = wait_for(lambda: storage_is(local, "empty, or not mounted"))
    assert readiness.status_code == 503
    checker = FileCheckHandler(context_of(local))
    check = threading.Thread(target=checker.poll)
    check.start()
    time.sleep(0.5)
    assert not folder.exists()
    elsewhere.rename(folder)
    check.join(60)
    assert local.http.get(f"/v1/files/{waiting}").json()["status"] == "processed"
    with local.api.database.read() as session:
        assert session.scalars(select(FileCheck.attempt)).all() == [1]
    assert local.http.post("/v1/files", data=form, files=files).status_code == 200
    assert local.http.get(f"/v1/files/{waiting}/content").content == jsonl()
    wait_for(lambda: storage_is(local, "ok"))


def test_a_full_disk_is_not_ready(local: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    assert storage_is(local, "ok")
    monkeypatch.setattr("app.http.probes.MIN_FREE_BYTES", 2**60)
    answer = wait_for(lambda: storage_is(local, "no space left"))
    assert answer.status_code == 503


def test_bytes_that_somebody_removed_are_no_broken_download(tenant: Tenant) -> None:
    file_id = tenant.upload(check=False)
    tenant.api.storage.delete(f"projects/{tenant.project_id}/files/{file_id}")
    model = new_id("ft:tiny:acme::")
    tenant.add_model(model, project_id=tenant.project_id)
    tenant.store_artifacts(model, {"config.json": b"{}"})
    tenant.api.storage.delete(f"models/{model}/config.json")
    content = f"/v1/files/{file_id}/content"
    for path in (content, f"{content}?skip_bad_lines=true", f"/v1/models/{model}/archive"):
        answer = tenant.http.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "bytes_missing"), path
    assert tenant.http.head(content).status_code == 200  # which reads nothing
