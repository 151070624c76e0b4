"""The trainer's log of an attempt, while it runs and afterwards."""

from typing import Any

from app.jobs import claims
from app.jobs.events import NewEvent
from app.models.trainer_log import TrainerLog
from tests.support.api import Tenant


def test_a_log_is_read_whole_and_from_where_somebody_was(tenant: Tenant) -> None:
    job_id = tenant.job().id

    def get(**query: Any) -> Any:
        return tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}/logs", params=query)

    nothing = {"object": "fine_tuning.job.log", "fine_tuning_job_id": job_id, "text": "",
               "attempt": None, "bytes": 0}  # fmt: skip
    assert get().json() == nothing
    assert get(format="text").text == ""
    claim = tenant.claim(job_id)
    assert get(attempt=1).json() == nothing | {"attempt": 1}
    tenant.store_log(claim, TrainerLog(head="one\n", left_out=2_000, tail="twö\n"))
    note = "[2,000 bytes are left out here]\n"
    assert get().json() == nothing | {
        "attempt": 1, "text": f"one\n{note}twö\n", "bytes": 2_009,
    }  # fmt: skip
    assert get(after=4).json()["text"] == f"{note}twö\n"
    assert get(after=2_004).json()["text"] == "twö\n"
    assert get(after=2_009).json() == nothing | {"attempt": 1, "bytes": 2_009}
    text = tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}/logs", headers={"accept": "text/plain"})
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert text.text == f"one\n{note}twö\n"
    with tenant.api.database.transaction() as session:
        claims.release(session, claim, NewEvent("x"), counts_as_failure=True, max_infra_failures=3)
    second = tenant.claim(job_id)
    assert get().json()["attempt"] == 1, "the second has written nothing yet"
    tenant.store_log(second, TrainerLog(head="again\n"))
    assert get().json() == nothing | {"attempt": 2, "text": "again\n", "bytes": 6}
    assert get(attempt=1).json()["bytes"] == 2_009
    assert (get(attempt=3).status_code, get(attempt=0).status_code) == (404, 400)
    assert [each["log_bytes"] for each in tenant.http.get(
        f"/v1/fine_tuning/jobs/{job_id}").json()["attempts"]] == [2_009, 6]  # fmt: skip
