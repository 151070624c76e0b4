"""Rows that a worker of an earlier version may have stored make no page and no address fail."""

import json
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, text, update

from app.attempts.metrics_file import read_steps, write_csv
from app.base.database import now_plus
from app.jobs import events
from app.jobs.events import NewEvent
from app.jobs.listing import SORTS
from app.models import Attempt, Event, Job, JobStatus
from app.models.base import JsonObject
from tests.support.api import Tenant, installation_admin
from tests.support.pages import sign_in

pytestmark = pytest.mark.both_databases

HUGE = 10**400
METRICS: list[JsonObject] = [
    {"step": "x", "train_loss": 1.0},
    {"train_loss": "text"},
    {"step": HUGE, "train_loss": 1.0},
    {"step": 1, "train_loss": "text", "valid_loss": [1], "cost_accrued": "1E+999999"},
    {"step": 2, "train_loss": HUGE, "valid_loss": "text", "cost_accrued": "dollars"},
    {"step": 3, "train_loss": 1e308, "grad_norm": -1e308},
    {"step": True, "train_loss": {"a": 1}},
]
MESSAGES: list[JsonObject] = [
    {"worker": 1},
    {"worker": "w", "attempt": "x"},
    {"step": 1, "samples": "none"},
    {"step": 1, "samples": [{"prompt": 1}]},
    {"step": "x", "samples": []},
    {"trainer_log": 5},
]
PROGRESS: JsonObject = {
    **{"step": "x", "total_steps": 0, "percent": "much", "tokens_per_second": "fast"},
    **{"eta_seconds": "soon", "train_loss": "text", "valid_loss": HUGE, "memory_bytes": -1},
    "cost": {
        **{"currency": "usd", "usd_per_device_hour": "1", "price_source": "s"},
        **{"accrued": "1E+999999", "projected": "NaN"},
        **{"projected_low": None, "projected_high": None},
    },
}
FAR_AWAY: JsonObject = {"step": 3, "total_steps": 9, "percent": 30.0, "eta_seconds": 9e9}
ACTUAL: JsonObject = {"seconds": 1e308, "cost": "NaN", "ratio": "x", "inside_band": 3}
COST = 2**62  # in hundredths of a cent


def store(tenant: Tenant, job_id: str, attempt: int, progress: JsonObject) -> None:
    """Write all of it past the checks that workers meet."""
    tenant.add_checkpoint(job_id, 1, metrics={"valid_loss": "text", "train_loss": HUGE})
    with tenant.api.database.transaction() as session:
        metrics = [NewEvent("m", type="metrics", data=data) for data in METRICS]
        messages = [NewEvent("m", data=data) for data in MESSAGES]
        assert events.append(session, job_id, [*metrics, *messages])
        # A row of its own, as they were before chunks.
        last = session.get_one(Job, job_id).last_event_seq
        own = {"level": "info", "message": "m", "type": "metrics", "attempt": attempt}
        for number, data in enumerate(METRICS, last + 1):
            row = own | {"job_id": job_id, "seq": number, "data": data, "created_at": now_plus()}
            session.execute(insert(Event).values(row))
        is_sqlite = session.get_bind().dialect.name == "sqlite"
        place = ":value" if is_sqlite else "CAST(:value AS JSONB)"
        for column, value in (("progress", progress), ("actual", ACTUAL)):
            statement = text(f"UPDATE jobs SET {column} = {place} WHERE id = :id")
            # SQLite reads this as infinity, Postgres as a number of a thousand digits.
            content = json.dumps(value).replace("1e+308", "1e999")
            session.execute(statement, {"id": job_id, "value": content})
        seconds = {"last_event_seq": last + len(METRICS)}
        session.execute(update(Job).where(Job.id == job_id).values(seconds))
        columns = "device_seconds = 1e308, execution_seconds = 1e308"
        session.execute(text(f"UPDATE jobs SET {columns} WHERE id = :id"), {"id": job_id})
        columns = "tokens = 4611686018427387904, train_seconds = 1e-300, overhead_seconds = 1e308"
        session.execute(text(f"UPDATE attempts SET {columns} WHERE job_id = :id"), {"id": job_id})
        for days in range(3):
            usage = {
                **{"job": job_id, "day": f"{date.today() - timedelta(days)}", "cost": COST},
                **{"project": tenant.project_id, "model": tenant.base_model, "tokens": 2**62},
            }
            session.execute(
                text(
                    "INSERT INTO usage_days "
                    "(job_id, day, project_id, base_model_id, cost, device_seconds, tokens) "
                    "VALUES (:job, :day, :project, :model, :cost, 1e308, :tokens)"
                ),
                usage,
            )


def set_status(tenant: Tenant, job_id: str, status: JobStatus) -> None:
    values: dict[str, Any] = {"status": status, "lease_owner": None, "lease_expires_at": None}
    if status is JobStatus.SUCCEEDED:
        values |= {"finished_at": now_plus()}
    with tenant.api.database.transaction() as session:
        session.execute(update(Job).where(Job.id == job_id).values(values))
        outcome = update(Attempt).where(Attempt.job_id == job_id)
        session.execute(outcome.values(outcome=status, ended_at=now_plus()))


def addresses_of(job_id: str) -> Iterator[str]:
    jobs = "/v1/fine_tuning/jobs"
    yield from (jobs, f"{jobs}/{job_id}", f"{jobs}/{job_id}/events", f"{jobs}/{job_id}/checkpoints")
    yield from (f"{jobs}/{job_id}/metrics", f"{jobs}/{job_id}/metrics?format=csv")
    yield "/v1/fine_tuning/estimates/accuracy"
    for address in ("usage", "organization/costs"):
        yield f"/v1/{address}?start_time={1_790_000_000}&limit=180"


def pages_of(job_id: str, other_id: str) -> Iterator[str]:
    yield "/"
    yield from (f"/jobs/{job_id}{part}" for part in ("", "/events", "/metrics"))
    yield f"/jobs/{job_id}/metrics?format=csv"
    yield from (f"/compare?job={job_id}&job={other_id}", "/usage", "/usage/table.csv", "/workers")


@pytest.mark.parametrize("status", [JobStatus.RUNNING, JobStatus.SUCCEEDED])
def test_no_stored_row_makes_an_answer_fail(tenant: Tenant, status: JobStatus) -> None:
    other_id = tenant.job().id
    claim = tenant.claim(other_id)
    store(tenant, other_id, claim.attempt, FAR_AWAY)
    job_id = tenant.job().id
    claim = tenant.claim(job_id)
    store(tenant, job_id, claim.attempt, PROGRESS)
    set_status(tenant, other_id, JobStatus.QUEUED)
    if status is not JobStatus.RUNNING:
        set_status(tenant, job_id, status)
    failed = {}
    sorted_lists = [f"/?sort={name}" for name in SORTS]
    admin = installation_admin(tenant.api)
    url = tenant.api.url
    with admin, httpx.Client(base_url=url, follow_redirects=True, verify=False) as browser:
        sign_in(browser, tenant)
        for http, addresses in (
            (tenant.http, addresses_of(job_id)),
            (admin, ["/v1/usage?start_time=1790000000", "/metrics"]),
            (browser, pages_of(job_id, other_id)),
            (browser, sorted_lists if status is JobStatus.RUNNING else []),
        ):
            for address in addresses:
                answer = http.get(address)
                if answer.status_code != 200:
                    failed[address] = answer.text[:300]
        for address, http in (
            (f"/v1/fine_tuning/jobs/{job_id}/stream", tenant.http),
            (f"/jobs/{job_id}/live", browser),
        ):
            with http.stream("GET", address) as stream:
                first = next(stream.iter_lines(), "")
                if stream.status_code != 200 or not first:
                    failed[address] = first
    body = {"model": tenant.base_model, "training_file": tenant.upload()}
    for path in ("estimates", "jobs"):
        answer = tenant.http.post(f"/v1/fine_tuning/{path}", json=body)
        if answer.status_code != 200:
            failed[path] = answer.text
    assert failed == {}
    with tenant.api.database.read() as session:
        lines = b"".join(write_csv(read_steps(session, job_id))).decode().splitlines()
    assert lines[0].startswith("step,")
    assert len(lines) < 5
