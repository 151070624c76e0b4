"""While the database is away every call is answered 503 in the usual shape, with the time to wait;
what was acknowledged is there.
"""

import re
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import event, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.models import Job
from tests.contract.access_routes import ROUTES
from tests.support.api import Api, Tenant
from tests.support.postgres import PostgresServer
from tests.support.waiting import wait_for


@pytest.fixture
def postgres_tenant(postgres: PostgresServer, tmp_path: Path) -> Iterator[Tenant]:
    yield from a_tenant(
        postgres.create_database(tmp_path.name) + "&options=-c%20lock_timeout%3D200ms", tmp_path
    )


@pytest.fixture
def sqlite_tenant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tenant]:
    monkeypatch.setattr("app.base.database.BUSY_TIMEOUT_MS", 500)
    yield from a_tenant(f"sqlite:///{tmp_path / 'falqon.db'}", tmp_path)


def a_tenant(url: str, folder: Path) -> Iterator[Tenant]:
    api = Api(url, folder)
    tenant = Tenant(api)
    yield tenant
    tenant.http.close()
    api.stop()


def assert_unavailable(answer: httpx.Response) -> None:
    assert answer.status_code == 503, f"{answer.request.method} {answer.request.url}: {answer.text}"
    assert int(answer.headers["retry-after"]) > 0
    assert "x-should-retry" not in answer.headers
    if answer.request.method != "HEAD":
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("server_error", "database_unavailable")


def test_every_route_says_so_and_a_restart_is_survived(
    postgres: PostgresServer, postgres_tenant: Tenant
) -> None:
    tenant = postgres_tenant
    job_id = tenant.job().id
    with tenant.http.stream("GET", f"/v1/fine_tuning/jobs/{job_id}/stream") as stream:
        lines = stream.iter_lines()
        assert "Created fine-tuning job" in next(line for line in lines if line.startswith("data:"))
        postgres.stop(signal.SIGQUIT)
        try:
            for method, path in ROUTES:
                assert_unavailable(tenant.http.request(method, re.sub(r"\{[^}]+\}", "x", path)))
        finally:
            postgres.start()
        assert tenant.client.fine_tuning.jobs.cancel(job_id).status == "cancelled"
        assert any("cancelled" in line for line in lines), "a stream outlives it"


@pytest.mark.parametrize("backend", ["sqlite_tenant", "postgres_tenant"])
def test_a_commit_whose_answer_is_lost_makes_one_job(
    request: pytest.FixtureRequest, backend: str
) -> None:
    tenant: Tenant = request.getfixturevalue(backend)
    body = {"model": tenant.base_model, "training_file": tenant.upload()}
    submitting: list[Session] = []  # one of another API, still in this process, may commit as well
    job_ids: list[str] = []

    def note_job(session: Session, _context: object) -> None:
        jobs = [new.id for new in session.new if isinstance(new, Job)]
        if jobs and not job_ids:
            submitting.append(session)
        job_ids.extend(jobs)

    def lose_the_answer(session: Session) -> None:
        if session in submitting:
            submitting.remove(session)
            raise OperationalError("COMMIT", {}, ConnectionError("server closed the connection"))

    event.listen(Session, "after_flush", note_job)
    event.listen(Session, "after_commit", lose_the_answer)
    try:
        first = tenant.http.post(
            "/v1/fine_tuning/jobs", json=body, headers={"idempotency-key": "once"}
        )
    finally:
        event.remove(Session, "after_flush", note_job)
        event.remove(Session, "after_commit", lose_the_answer)
    assert_unavailable(first)
    again = tenant.http.post("/v1/fine_tuning/jobs", json=body, headers={"idempotency-key": "once"})
    assert again.json()["id"] == job_ids[0]
    assert tenant.num_rows(Job) == [1]


def test_a_request_that_waits_too_long_for_a_lock_is_refused(postgres_tenant: Tenant) -> None:
    tenant = postgres_tenant
    job_id = tenant.job().id
    with tenant.api.database.transaction() as session:
        session.scalars(select(Job.id).where(Job.id == job_id).with_for_update()).one()
        assert_unavailable(tenant.http.post(f"/v1/fine_tuning/jobs/{job_id}/cancel"))
    assert tenant.http.post(f"/v1/fine_tuning/jobs/{job_id}/cancel").json()["status"] == "cancelled"


def test_a_locked_sqlite_file_is_waited_for_and_then_reported(sqlite_tenant: Tenant) -> None:
    tenant = sqlite_tenant
    job_id = tenant.job().id
    other = sqlite3.connect(tenant.api.settings.data_dir / "falqon.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert_unavailable(tenant.http.post(f"/v1/fine_tuning/jobs/{job_id}/cancel"))
    assert tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}").status_code == 200, (
        "reading needs no lock"
    )
    other.execute("ROLLBACK")
    other.close()
    wait_for(lambda: tenant.http.post(f"/v1/fine_tuning/jobs/{job_id}/cancel").status_code == 200)
