import json
import re

import httpx

from app.jobs import claims
from app.jobs.claims import JobFailure
from app.jobs.events import NewEvent
from app.models import JobStatus
from tests.browser import scene
from tests.support.api import Tenant

SECTION = 'id="charts-title"'


def test_a_job_that_ended_without_a_step_has_no_charts(
    browser: httpx.Client, tenant: Tenant
) -> None:
    claim = tenant.claim(tenant.job().id)
    assert SECTION in browser.get(f"/jobs/{claim.job_id}").text
    failure = JobFailure("internal_error", "The trainer did not start.")
    scene.finish(tenant, claim, JobStatus.FAILED, failure=failure)
    page = browser.get(f"/jobs/{claim.job_id}").text
    assert SECTION not in page
    assert "charts.js" not in page


def test_checkpoints_pauses_and_later_attempts_are_marked(
    browser: httpx.Client, tenant: Tenant
) -> None:
    first = scene.job(tenant, tenant.upload(), "marked", 40)
    tenant.client.fine_tuning.jobs.pause(first.job_id)
    with tenant.api.database.transaction() as session:
        paused = NewEvent("Paused")
        claims.release(session, first, paused, counts_as_failure=False, max_infra_failures=1)
    tenant.client.fine_tuning.jobs.resume(first.job_id)
    second = tenant.claim(first.job_id)
    with tenant.api.database.transaction() as session:
        claims.update_attempt(session, second, start_step=30)
    page = browser.get(f"/jobs/{first.job_id}").text
    (text,) = re.findall(r"data-marks='([^']+)'", page)
    marks = [(mark["step"], mark["label"]) for mark in json.loads(text)]
    assert marks == [(30, "attempt 2"), (30, "checkpoint"), (40, "paused")]
