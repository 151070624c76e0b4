import pytest

from app.base.ids import new_id
from app.jobs import claims
from app.models import Drain
from app.workers import service as workers
from falqon_core.contract.diagnosis import CheckRow, Diagnosis
from tests.support.api import Tenant
from tests.support.quiet import quiet

ROW = CheckRow(name="Triton", status="ok", detail="its cache can be written to", seconds=0.2)
DIAGNOSIS = Diagnosis(rows=(ROW,), seconds=3.5)

pytestmark = pytest.mark.both_databases


def test_workers_are_shown_idle_and_busy_and_jobs_of_others_are_not(
    tenant: Tenant, stranger: Tenant
) -> None:
    busy = new_id("busy-")
    idle = new_id("idle-")
    quiet(tenant.api)
    job_id = tenant.job().id
    with tenant.api.database.transaction() as session:
        for worker_id in (busy, idle):
            workers.mark_seen(session, worker_id, "cpu", 2)
        workers.store_diagnosis(session, idle, DIAGNOSIS)
        workers.drain(session, tenant.api.settings, idle, Drain.FINISH)
        assert (
            claims.claim(session, owner=busy, device="cpu", num_devices=2, lease_seconds=600)
            is not None
        )
    rows = {row["id"]: row for row in tenant.http.get("/v1/workers").json()["data"]}
    assert rows.keys() == {busy, idle}
    assert (rows[busy]["status"], rows[busy]["job"]) == ("busy", job_id)
    assert (rows[idle]["status"], rows[idle]["job"]) == ("idle", None)
    assert (rows[busy]["draining"], rows[idle]["draining"]) == (None, "finish")
    assert (rows[idle]["object"], rows[idle]["device"], rows[idle]["num_devices"]) == (
        "worker",
        "cpu",
        2,
    )
    assert all(0 <= rows[worker_id]["heartbeat_age_seconds"] < 30 for worker_id in (busy, idle))
    assert rows[busy]["diagnosis"] is None
    assert Diagnosis.model_validate(rows[idle]["diagnosis"]) == DIAGNOSIS
    seen_by_others = {row["id"]: row for row in stranger.http.get("/v1/workers").json()["data"]}
    assert (seen_by_others[busy]["status"], seen_by_others[busy]["job"]) == ("busy", None)
