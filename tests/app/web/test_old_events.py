"""Jobs whose events were too old to be kept: all that shows events goes on without them."""

from datetime import timedelta

import httpx
from sqlalchemy import update

from app.base.database import now
from app.garbage.events import REMOVED_AT_ONCE, remove_old
from app.jobs.events import NewEvent, append
from app.models import Job
from tests.support.api import Tenant

DAYS = timedelta(days=30)
STEPS = REMOVED_AT_ONCE + 500  # of more than one transaction


def ended_job(tenant: Tenant, age: timedelta) -> str:
    job_id: str = tenant.job().id
    with tenant.api.database.transaction() as session:
        steps = [
            NewEvent(f"Step {step}", type="metrics", data={"step": step, "train_loss": 1.5})
            for step in range(1, STEPS + 1)
        ]
        append(session, job_id, steps)
    tenant.client.fine_tuning.jobs.cancel(job_id)
    with tenant.api.database.transaction() as session:
        ended = update(Job).where(Job.id == job_id).values(finished_at=now(session) - age)
        session.execute(ended)
    return job_id


def num_events(tenant: Tenant, job_id: str) -> int:
    return len(list(tenant.client.fine_tuning.jobs.list_events(job_id, limit=100)))


def test_events_go_when_their_job_ended_long_ago_and_the_last_stays(
    tenant: Tenant, browser: httpx.Client
) -> None:
    old, young = (ended_job(tenant, DAYS + timedelta(hours=hour)) for hour in (1, -1))
    running = tenant.job().id
    before = num_events(tenant, old)
    database = tenant.api.database
    assert remove_old(database, None) == 0
    assert remove_old(database, DAYS) == before - 1
    assert remove_old(database, DAYS) == 0

    assert (num_events(tenant, old), num_events(tenant, young)) == (1, before)
    assert num_events(tenant, running) > 0
    (last,) = tenant.client.fine_tuning.jobs.list_events(old)
    assert "cancelled" in last.message
    stream = tenant.http.get(f"/v1/fine_tuning/jobs/{old}/stream").raise_for_status().text
    assert stream.count("data:") == 2
    assert "data: [DONE]" in stream
    metrics = tenant.http.get(f"/v1/fine_tuning/jobs/{old}/metrics?format=csv")
    assert metrics.raise_for_status().text.count("\n") == 1
    assert "Earlier events were removed on" in browser.get(f"/jobs/{old}").raise_for_status().text
    assert "Earlier events" not in browser.get(f"/jobs/{young}").raise_for_status().text
    assert browser.get("/").is_success
