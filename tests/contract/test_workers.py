import pytest

from app.base.ids import new_id
from app.jobs import claims
from app.jobs.claims import Claim
from app.models import Drain
from app.workers import service as workers
from falqon_core.contract.diagnosis import CheckRow, Diagnosis
from tests.support.api import Api, Tenant, installation_admin
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


def test_an_admin_drains_a_machine_and_sees_every_job(api: Api, tenant: Tenant) -> None:
    machine, other = new_id("machine-"), new_id("other-")
    ids = [f"{machine}-{number}" for number in range(2)]
    quiet(api)
    job_id = tenant.job().id
    with api.database.transaction() as session:
        for worker_id in (*ids, other):
            workers.mark_seen(session, worker_id, "cpu", 2)
        claims.claim(session, owner=ids[0], device="cpu", num_devices=2, lease_seconds=600)
    claim = Claim(job_id, 1, ids[0])

    def draining() -> dict[str, str | None]:
        with installation_admin(api) as admin:
            rows = admin.get("/v1/workers").raise_for_status().json()["data"]
        jobs = {row["id"]: row["job"] for row in rows}
        assert jobs[ids[0]] == job_id, "although it is of another project"
        return {row["id"]: row["draining"] for row in rows if row["id"] in (*ids, other)}

    with installation_admin(api) as admin:
        drained = admin.post(f"/v1/workers/{machine}/drain", json={"draining": "finish"}).json()
        assert {row["id"] for row in drained["data"]} == set(ids)
        assert draining() == dict.fromkeys(ids, "finish") | {other: None}
        admin.post(f"/v1/workers/{ids[0]}/drain", json={"draining": "stop"}).raise_for_status()
        with api.database.read() as session:
            assert workers.must_stop(session, ids[0])
        admin.post(f"/v1/workers/{machine}/drain", json={"draining": None}).raise_for_status()
        assert set(draining().values()) == {None}
        for body in ({}, {"draining": "now"}, {"draining": True}):
            assert admin.post(f"/v1/workers/{machine}/drain", json=body).status_code == 400
        requeued = admin.post(f"/v1/fine_tuning/jobs/{job_id}/requeue").raise_for_status().json()
        assert f"is taken from {ids[0]}" in requeued["message"]
        with api.database.transaction() as session:
            assert claims.renew(session, claim, 600) is None, "the worker is fenced out"
        tenant.client.fine_tuning.jobs.cancel(job_id)
        ended = admin.post(f"/v1/fine_tuning/jobs/{job_id}/requeue")
        assert (ended.status_code, "has ended" in ended.json()["error"]["message"]) == (400, True)
