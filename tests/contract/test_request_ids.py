from app.models import Job
from tests.support.api import Tenant


def test_a_job_keeps_the_id_of_its_request_for_the_logs_of_its_workers(tenant: Tenant) -> None:
    body = {"model": tenant.base_model, "training_file": tenant.upload()}
    answer = tenant.http.post("/v1/fine_tuning/jobs", json=body)
    with tenant.api.database.read() as session:
        job = session.get_one(Job, answer.json()["id"])
    assert job.request_id == answer.headers["x-request-id"]
